// Replies of muxes and card readers, and what the kernel tells of them, with any bytes.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { layout, readReply } from "../../agent/sys/sg-io.ts";
import { sideOf } from "../../boards/sdwire/protocol.ts";
import * as sdMux from "../../boards/usb-sd-mux/protocol.ts";

const numRuns = 10_000;
const bytes = (maxLength: number, minLength = 0) => fc.uint8Array({ minLength, maxLength });

test("any answer of an FT200X is a side or none", () => {
  fc.assert(
    fc.property(bytes(4), (reply) => {
      const side = sideOf(reply);
      const expected = reply.length !== 1 ? undefined : (reply[0] ?? 0) & 1 ? "host" : "dut";
      assert.equal(side, expected);
    }),
    { numRuns },
  );
});

test("any reply of SG_IO gives no more data and sense than there is memory", () => {
  const reply = fc.tuple(bytes(layout.bytes, layout.bytes), bytes(64, 64), bytes(512));
  fc.assert(
    fc.property(reply, ([header, sense, data]) => {
      const read = readReply(Buffer.from(header), Buffer.from(sense), Buffer.from(data));
      assert.ok(read.data.length <= data.length && read.sense.length <= sense.length);
      assert.ok(read.status <= 0xff && read.hostStatus <= 0xffff);
      const residue = Buffer.from(header).readInt32LE(layout.residue);
      if (residue >= 0 && residue <= data.length) assert.equal(read.data.length, data.length - residue);
    }),
    { numRuns },
  );
});

test("any bytes are a card's identity in printable words, or none", () => {
  fc.assert(
    fc.property(fc.oneof(bytes(20), bytes(16, 16)), (cid) => {
      const card = sdMux.decodeCid(cid);
      if (card === undefined) {
        assert.ok(cid.length !== 16 || new Set(cid).size === 1);
        return;
      }
      assert.match(
        sdMux.describeCard(card),
        /^SD card [!-~]{5} \(manufacturer 0x[0-9a-f]{2} [!-~]{2}\), revision \d+\.\d+, serial 0x[0-9a-f]{8}, made \d{4}-\d\d$/,
      );
      assert.equal(card.serial, Buffer.from(cid).readUInt32BE(9));
    }),
    { numRuns },
  );
});

test("any bytes are a card's capacity or none, and capacities come back", () => {
  fc.assert(
    fc.property(fc.oneof(bytes(20), bytes(16, 16)), (csd) => {
      const capacityBytes = sdMux.decodeCapacityBytes(csd);
      if (csd.length !== 16 || (csd[0] ?? 0) >> 6 === 3) assert.equal(capacityBytes, undefined);
      else assert.ok(capacityBytes !== undefined && capacityBytes > 0 && Number.isSafeInteger(capacityBytes));
    }),
    { numRuns },
  );
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 2 ** 22 - 1 }), (size) => {
      const csd = Buffer.alloc(16);
      csd[0] = 0x40;
      csd.writeUIntBE(size, 7, 3);
      assert.equal(sdMux.decodeCapacityBytes(csd), (size + 1) * 512 * 1024);
    }),
    { numRuns },
  );
});

test("I2C commands carry what they are given", () => {
  const command = fc.tuple(
    fc.integer({ min: 0, max: 0x7f }),
    fc.array(fc.nat(255), { maxLength: 9 }),
    fc.integer({ min: 1, max: 512 }),
  );
  fc.assert(
    fc.property(command, ([address, payload, length]) => {
      const read = Buffer.from(sdMux.i2cWriteRead(address, payload, length));
      assert.equal(read.length, 16);
      assert.deepEqual(
        [read[2], read[3], read.readUInt16BE(4), read[6]],
        [address * 2, address * 2 + 1, length, payload.length],
      );
      assert.deepEqual([...read.subarray(7, 7 + payload.length)], payload);
      const { cdb, data } = sdMux.i2cWrite(address, payload);
      assert.equal(Buffer.from(cdb).readUInt16BE(4), payload.length);
      assert.deepEqual([...data.subarray(0, payload.length)], payload);
    }),
    { numRuns },
  );
});
