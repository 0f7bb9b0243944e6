// What boards, their volumes and the programs that flash them may say: nothing of it may do more than be refused.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { chipInfo, failureOf, majorVersion, parseRegion, percentOf, pythonInt } from "../../boards/esp32/protocol.ts";
import { familyProblem, Uf2Check } from "../../boards/pi-pico/protocol.ts";
import { saysError, TelnetFilter, upToPrompt, withoutEcho } from "../../boards/renode/protocol.ts";
import { isPartition, parseDevices, referenceProblem, refusal } from "../../boards/ridesx/protocol.ts";
import { extensionOf, IntelHexCheck } from "../../boards/stlink-msd/protocol.ts";
import { fatLabel, fatRoot, keyValues, nameProblem, parseMounts } from "../../boards/volume/protocol.ts";
import { intelHex, uf2 } from "../sim/firmware.ts";

fc.configureGlobal({ numRuns: 2_000 });

/** Returns, or throws an Error with a text of its own. */
function refuses(work: () => unknown): void {
  try {
    work();
  } catch (error) {
    assert.ok(error instanceof Error && !(error instanceof TypeError) && !(error instanceof RangeError), String(error));
  }
}

const text = fc.string({ unit: "binary" });

test("texts of volumes, mount tables and programs", () => {
  fc.assert(
    fc.property(text, (said) => {
      for (const { source, folder } of parseMounts(said))
        assert.ok(source.length <= said.length && folder !== undefined);
      keyValues(said);
      extensionOf(said);
      parseDevices(said);
      refusal(said);
      referenceProblem(said);
      percentOf(said);
      majorVersion(said);
      failureOf(said);
      saysError(said);
      withoutEcho(said, "x");
      upToPrompt(said, ["monitor"]);
      refuses(() => chipInfo(said));
      refuses(() => parseRegion(said));
    }),
  );
});

test("a name that is taken leads nowhere else", () => {
  fc.assert(
    fc.property(fc.oneof(text, fc.constantFrom("..", "../x", "/x", "x/../..", "-rf")), (name) => {
      if (nameProblem(name) === undefined) assert.ok(!name.includes("/") && name !== ".." && !name.includes("\0"));
      if (isPartition(name)) assert.ok(!name.startsWith("-") && !/\s|\//.test(name));
    }),
  );
});

test("numbers are what Python takes for numbers", () => {
  fc.assert(
    fc.property(fc.nat(), fc.constantFrom(10, 16, 8, 2), (value, base) => {
      const prefix = { 10: "", 16: "0x", 8: "0o", 2: "0b" }[base] ?? "";
      assert.equal(pythonInt(prefix + value.toString(base)), value);
    }),
  );
  fc.assert(fc.property(text, (said) => refuses(() => assert.ok(Number.isInteger(pythonInt(said))))));
});

test("FAT that is none", () => {
  const sector = fc.uint8Array({ minLength: 0, maxLength: 512 });
  fc.assert(
    fc.property(sector, fc.boolean(), (bytes, signed) => {
      const boot = new Uint8Array(512);
      boot.set(bytes);
      if (signed) boot.set([0x55, 0xaa], 510);
      const root = fatRoot(boot);
      if (root !== undefined) assert.ok(root.bytes <= 65_535 * 32 && root.offset < 2 ** 34);
      assert.ok((fatLabel(bytes)?.length ?? 0) <= 11);
    }),
  );
});

test("firmware with a byte that is wrong", () => {
  const content = Buffer.from("what a firmware is made of, in sixty-four bytes and some more..");
  const hex = Buffer.from(intelHex(content));
  fc.assert(
    fc.property(fc.nat(hex.length - 3), fc.integer({ min: 1, max: 255 }), fc.nat(80), (at, flip, cut) => {
      const damaged = Buffer.from(hex);
      damaged[at] = (damaged[at] ?? 0) ^ flip;
      const check = new IntelHexCheck();
      const said = damaged.toString("latin1");
      refuses(() => {
        check.add(said.slice(0, cut));
        check.add(said.slice(cut));
        check.end();
      });
    }),
  );
  const file = uf2(Buffer.alloc(1_000));
  fc.assert(
    fc.property(fc.nat(file.length - 4), fc.nat(0xffff_ffff), (at, word) => {
      const damaged = Buffer.from(file);
      damaged.writeUInt32LE(word, at);
      const check = new Uf2Check();
      refuses(() => {
        check.add(damaged);
        familyProblem("RPI-RP2", check.end());
      });
    }),
  );
});

test("Telnet, cut anywhere", () => {
  const byte = fc.oneof(fc.constantFrom(0xff, 0xfa, 0xf0, 0xfb, 0xfe), fc.nat(255));
  fc.assert(
    fc.property(fc.array(byte), fc.nat(100), (bytes, cut) => {
      const stream = Uint8Array.from(bytes);
      const [whole, parts] = [new TelnetFilter(), new TelnetFilter()];
      const once = Buffer.from(whole.filter(stream));
      const twice = Buffer.concat([parts.filter(stream.subarray(0, cut)), parts.filter(stream.subarray(cut))]);
      assert.ok(once.equals(twice));
    }),
  );
});
