// DoIP, UDS, SOME/IP and XCP: whatever comes in, decoders end, keep to their bounds and throw what they say.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { AgentError } from "../../agent/driver/errors.ts";
import * as doip from "../../boards/doip/protocol.ts";
import * as uds from "../../boards/uds/protocol.ts";
import { EthernetFramer } from "../../boards/xcp/framing.ts";
import { parseDaqEvent, parseDaqProcessor, parseDaqResolution } from "../../boards/xcp/daq-info.ts";
import { parseConnect, parsePacket, parseStatus, ResponseReader } from "../../boards/xcp/protocol.ts";
import * as someip from "../../net/someip/protocol.ts";

const bytes = fc.uint8Array({ maxLength: 80 });

/** Foreign bytes may be refused, and by nothing else than an error of ours. */
function decode(read: () => unknown): void {
  try {
    read();
  } catch (error) {
    assert.ok(error instanceof AgentError, String(error));
    assert.ok(error.code === "E_FAILED" || error.code === "E_LIMIT", error.code);
  }
}

/** The same bytes, cut into pieces at random. */
const pieces = (whole: Uint8Array, cuts: readonly number[]): Uint8Array[] => {
  const ends = [...cuts.map((cut) => cut % (whole.length + 1)), whole.length].sort((a, b) => a - b);
  return ends.map((end, index) => whole.subarray(index === 0 ? 0 : ends[index - 1], end));
};
const cuts = fc.array(fc.nat(), { maxLength: 8 });
const join = (parts: readonly Uint8Array[]) => new Uint8Array(Buffer.concat(parts));

test("DoIP: messages come out as they went in, however they are cut", () => {
  const message = fc.record({ type: fc.nat(0xffff), payload: bytes }, { noNullPrototype: true });
  fc.assert(
    fc.property(fc.array(message, { maxLength: 5 }), cuts, (messages, where) => {
      const whole = join(messages.map(({ type, payload }) => doip.encodeMessage(2, type, payload)));
      const decoder = new doip.DoipDecoder();
      const out = pieces(whole, where).flatMap((piece) => [...decoder.push(piece)]);
      assert.deepEqual(out, messages);
    }),
    { numRuns: 2_000 },
  );
});

test("DoIP: nonsense is refused", () => {
  const header = fc.tuple(fc.constantFrom(0x02fd, 0x03fc, 0x0000), fc.nat(0xffff), fc.nat(200), bytes);
  fc.assert(
    fc.property(fc.oneof(bytes, header.map(([version, type, length, rest]) => {
      const start = new Uint8Array(8);
      new DataView(start.buffer).setUint16(0, version);
      new DataView(start.buffer).setUint16(2, type);
      new DataView(start.buffer).setUint32(4, length);
      return join([start, rest]);
    })), (datagram) => {
      decode(() => doip.decodeDatagram(datagram));
      decode(() => [...new doip.DoipDecoder().push(datagram)]);
      for (const parse of [
        doip.parseRoutingActivation,
        doip.parseAddressed,
        doip.parseIdentification,
        doip.parseEntityStatus,
        doip.parsePowerMode,
        doip.parseAliveCheck,
        doip.describeHeaderNack,
      ]) decode(() => parse(datagram));
    }),
    { numRuns: 5_000 },
  ); // prettier-ignore
});

test("UDS: answers are read within their bounds", () => {
  const requests = [
    uds.testerPresent(),
    uds.readData(0xf190),
    uds.requestSeed(1),
    uds.readDtcByStatus(1),
    uds.clearDtc(1),
  ];
  const starts = fc.constantFrom<readonly number[]>(
    [],
    [0x7f],
    [0x7f, 0x22, 0x78],
    [0x62, 0xf1, 0x90],
    [0x69, 2],
    [0x78, 4],
  );
  fc.assert(
    fc.property(starts, bytes, fc.constantFrom(...requests), (start, rest, request) => {
      const message = join([Uint8Array.from(start), rest]);
      const response = uds.parseResponse(request, message);
      if (response.kind === "positive") assert.deepEqual(response.data.subarray(0, request.echo.length), request.echo);
      decode(() => assert.ok(uds.parseDtcs(message).every(({ dtc_id }) => dtc_id <= 0xff_ffff)));
      decode(() => uds.parseAuthentication(message));
      decode(() => uds.parseFileTransfer(message));
      uds.extendedTimeoutMs(message);
    }),
    { numRuns: 10_000 },
  );
});

const endpoint = fc.record({
  address: fc.tuple(fc.nat(255), fc.nat(255), fc.nat(255), fc.nat(255)).map((parts) => parts.join(".")),
  port: fc.nat(0xffff),
  protocol: fc.constantFrom("udp" as const, "tcp" as const),
}, { noNullPrototype: true }); // prettier-ignore
const entry = fc
  .record({
    type: fc.constantFrom(...Object.values(someip.entryTypes)),
    serviceId: fc.nat(0xffff),
    instanceId: fc.nat(0xffff),
    majorVersion: fc.nat(255),
    ttl: fc.nat(0xff_ffff),
    minorVersion: fc.integer({ min: 0, max: 0xffff_ffff }),
    eventgroupId: fc.nat(0xffff),
    endpoints: fc.array(endpoint, { maxLength: 3 }),
  })
  .map((given) => {
    const isEventgroup = given.type >= someip.entryTypes.subscribe;
    return { ...given, multicast: [], [isEventgroup ? "minorVersion" : "eventgroupId"]: 0 };
  });

test("SOME/IP: discovery reads what it wrote, and nothing breaks it", () => {
  fc.assert(
    fc.property(fc.array(entry, { maxLength: 4 }), bytes, fc.nat(), (entries, noise, at) => {
      const message = someip.decodeMessage(someip.encodeDiscovery(entries, 1, true));
      assert.ok(message);
      assert.deepEqual(someip.decodeDiscovery(message.payload), entries);
      const spoiled = Uint8Array.from(message.payload);
      spoiled.set(noise.subarray(0, spoiled.length), 0);
      spoiled[at % spoiled.length] = noise[0] ?? 0x55;
      decode(() => someip.decodeDiscovery(spoiled));
      decode(() => someip.decodeDiscovery(noise));
    }),
    { numRuns: 3_000 },
  );
});

test("SOME/IP: a stream gives the same messages however it is cut, a datagram no more than it holds", () => {
  const payloads = fc.array(bytes, { maxLength: 5 });
  fc.assert(
    fc.property(payloads, cuts, bytes, (all, where, noise) => {
      const ids = { serviceId: 1, methodId: 2, clientId: 3, sessionId: 4 };
      const rest = { protocolVersion: 1, interfaceVersion: 1, messageType: 0, returnCode: 0 };
      const messages = all.map((payload) => someip.encodeMessage({ ...ids, ...rest, payload }));
      const whole = join(messages);
      const splitter = new someip.MessageSplitter();
      assert.deepEqual(
        pieces(whole, where).flatMap((piece) => [...splitter.push(piece)]),
        messages,
      );
      const split = [...someip.splitDatagram(join([whole, noise]))];
      assert.deepEqual(split.slice(0, messages.length), messages);
      someip.decodeMessage(noise);
      assert.throws(() => [...new someip.MessageSplitter().push(new Uint8Array(8))], RangeError);
    }),
    { numRuns: 2_000 },
  );
});

test("XCP: packets come out as they went in, and nonsense is refused", () => {
  fc.assert(
    fc.property(fc.array(bytes, { maxLength: 5 }), cuts, bytes, (packets, where, noise) => {
      const [sender, receiver] = [new EthernetFramer(), new EthernetFramer()];
      const whole = join(packets.map((packet) => sender.frame(packet)));
      assert.deepEqual(
        pieces(whole, where).flatMap((piece) => [...receiver.push(piece)]),
        packets,
      );
      parsePacket(noise);
      decode(() => parseConnect(noise));
      for (const parse of [parseStatus, parseDaqProcessor, parseDaqResolution, parseDaqEvent]) {
        for (const order of ["INTEL", "MOTOROLA"] as const) {
          decode(() => parse(new ResponseReader("GET_STATUS", noise, order)));
        }
      }
    }),
    { numRuns: 3_000 },
  );
});
