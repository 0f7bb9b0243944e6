import assert from "node:assert/strict";
import { test } from "node:test";
import { familyProblem, Uf2Check } from "../../../../boards/pi-pico/protocol.ts";
import { extensionOf, IntelHexCheck } from "../../../../boards/stlink-msd/protocol.ts";
import { fatLabel, fatRoot, keyValues, nameProblem, parseMounts } from "../../../../boards/volume/protocol.ts";
import { familyRp2040, intelHex, uf2 } from "../../../sim/firmware.ts";

test("a mount table, with names as the kernel escapes them", () => {
  const text =
    "/dev/sda1 /media/a\\040b\\134c vfat rw 0 0\nproc /proc proc rw 0 0\n/dev/sdb /m/\\303\\274%41 vfat rw 0 0\nhalf";
  assert.deepEqual(parseMounts(text), [
    { source: "/dev/sda1", folder: "/media/a b\\c" },
    { source: "proc", folder: "/proc" },
    { source: "/dev/sdb", folder: "/m/ü%41" },
  ]);
});

test("text files of volumes", () => {
  assert.deepEqual(keyValues("# DAPLink\r\nUnique ID: 0240: x\r\nAuto Reset:1\nnothing\n"), {
    "Unique ID": "0240: x",
    "Auto Reset": "1",
  });
  assert.deepEqual(Object.keys(keyValues("__proto__: x")), ["__proto__"]);
});

test("file names that lead out of a volume are none", () => {
  for (const name of ["a/b", "../x.bin", "..", ".", "", "a\\b", "a\0b", "a:b", "x".repeat(256)]) {
    assert.notEqual(nameProblem(name), undefined, JSON.stringify(name));
  }
  for (const name of ["firmware.bin", "a..b", "..x", "Ü 1.uf2"]) assert.equal(nameProblem(name), undefined, name);
});

test("extensions as Python sees them", () => {
  assert.deepEqual(["a.BIN", "a.b.hex", "bin", ".bin", "a.", "..bin"].map(extensionOf), [
    ".bin",
    ".hex",
    "",
    "",
    ".",
    "",
  ]);
});

test("the name of a FAT volume", () => {
  const boot = Buffer.alloc(512);
  boot.writeUInt16LE(512, 11);
  boot.writeUInt16LE(1, 14);
  boot[16] = 2;
  boot.writeUInt16LE(16, 17);
  boot.writeUInt16LE(3, 22);
  assert.equal(fatRoot(boot), undefined, "without its signature");
  boot.set([0x55, 0xaa], 510);
  assert.deepEqual(fatRoot(boot), { offset: 7 * 512, bytes: 512 });
  const root = Buffer.alloc(128);
  root.write("\xe5LD LABEL  \x08", 0, "latin1");
  root.write("LONGNAMEPAR\x0f", 32, "latin1");
  assert.equal(fatLabel(root), undefined);
  root.write("NOD_F411RE \x28", 64, "latin1");
  assert.equal(fatLabel(root), "NOD_F411RE");
});

const hexError = (text: string) => {
  const check = new IntelHexCheck();
  try {
    // In pieces, as streams bring it.
    for (let at = 0; at < text.length; at += 7) check.add(text.slice(at, at + 7));
    check.end();
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
};

test("Intel HEX that is damaged or cut off", () => {
  const text = intelHex(Buffer.from("0123456789abcdefXYZ"));
  assert.equal(hexError(text), undefined);
  assert.equal(hexError(text.trimEnd()), undefined, "without the last line end");
  assert.match(hexError(text.replace("3132", "3133")) ?? "", /^line 2 has a wrong checksum/);
  assert.match(hexError(text.slice(0, -13)) ?? "", /cut off/);
  assert.match(hexError(`${text}:00000001FF\n`) ?? "", /follows the record that ends the file/);
  assert.match(hexError("\x7fELF and so on\n") ?? "", /^line 1 is no record/);
  assert.match(hexError(":0200000000FE\n") ?? "", /says 2 bytes and has 1/);
  assert.match(hexError(":0000000600\n") ?? "", /unknown type 6/);
  assert.match(hexError("x".repeat(5_000)) ?? "", /is no record/);
  assert.match(hexError("") ?? "", /cut off/);
});

const uf2Error = (file: Uint8Array) => {
  const check = new Uf2Check();
  try {
    check.add(file);
    return check.end();
  } catch (error) {
    return (error as Error).message;
  }
};

test("UF2 files are checked block by block", () => {
  const good = uf2(Buffer.alloc(1000, 7));
  const changed = (at: number, value: number) => {
    const file = Buffer.from(good);
    file.writeUInt32LE(value, at);
    return file;
  };
  assert.deepEqual(uf2Error(good), [familyRp2040]);
  assert.deepEqual(uf2Error(Buffer.concat([good.subarray(512), good.subarray(0, 512)])), [familyRp2040], "any order");
  assert.deepEqual(uf2Error(Buffer.concat([good, uf2(Buffer.alloc(300), { family: 7 })])), [familyRp2040, 7]);
  assert.match(String(uf2Error(changed(512, 1))), /^block 1 has no magic numbers/);
  assert.match(String(uf2Error(changed(4, 1))), /^block 0 has no magic numbers/);
  assert.match(String(uf2Error(changed(508, 1))), /^block 0 has no magic numbers/);
  assert.match(String(uf2Error(changed(16, 477))), /^block 0 has 477 bytes/);
  assert.match(String(uf2Error(changed(512 + 20, 4))), /^block 1 says that it is number 4 of 4/);
  assert.match(String(uf2Error(changed(512 + 20, 0))), /^block 1 has the number 0, which came before/);
  assert.match(String(uf2Error(changed(512 + 24, 9))), /^block 1 says 9 blocks, and others 4/);
  assert.equal(uf2Error(good.subarray(0, 1024)), "2 of the 4 blocks for RP2040 are there: it was cut off");
  assert.match(String(uf2Error(Buffer.alloc(0))), /no blocks/);
});

test("firmware for another chip is known before it is copied", () => {
  const [arm, absolute] = [0xe48bff59, 0xe48bff57];
  assert.equal(familyProblem("RPI-RP2", [familyRp2040]), undefined);
  assert.equal(familyProblem("RP2350", [absolute, arm]), undefined);
  assert.equal(familyProblem("SAMD21", [undefined]), undefined, "an unknown board");
  assert.equal(familyProblem(undefined, [7]), undefined);
  assert.match(familyProblem("RPI-RP2", [arm]) ?? "", /for RP2350 \(Arm, secure\), and the board is an RP2040/);
  assert.match(familyProblem("RPI-RP2", [undefined]) ?? "", /for no family/);
  assert.match(familyProblem("RP2350", [familyRp2040]) ?? "", /for RP2040, and the board is an RP2350/);
});
