import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { bootStateIn, readBootState, writeBootState, type BootState } from "../../../appliance/slots/boot-state.ts";
import { readEnvironment, writeEnvironment } from "../../../appliance/slots/grubenv.ts";
import { findProgram } from "../../../agent/sys/program.ts";
import { scratch } from "../../sim/agent.ts";

const state: BootState = { slot: "a", trial: "b", tries: 2, invalid: undefined };

test("GRUB's own tool reads what we write, and we read what it writes", (t) => {
  if (findProgram("grub-editenv") === undefined) return t.skip("it needs grub-editenv");
  const path = join(scratch(t), "grubenv");
  const grub = (...words: string[]) => execFileSync("grub-editenv", [path, ...words], { encoding: "utf8" });
  writeFileSync(path, writeBootState(state));
  assert.equal(grub("list"), "slot=a\ntrial=b\ntries=2\ninvalid=\n");
  grub("set", "tries=1");
  assert.deepEqual(readBootState(readFileSync(path)), { ...state, tries: 1 });
  const odd = String.raw`a\b=c#d`;
  grub("set", `odd=${odd}`);
  assert.equal(readEnvironment(readFileSync(path)).get("odd"), odd);
  writeFileSync(path, writeEnvironment(new Map([["odd", odd]])));
  assert.equal(grub("list"), `odd=${odd}\n`);
  grub("create");
  assert.equal(readEnvironment(readFileSync(path)).size, 0);
  assert.equal(readBootState(readFileSync(path)), undefined);
});

test("the whole state lies in one sector", () => {
  const bytes = writeBootState({ slot: "b", trial: "a", tries: 3, invalid: "a" });
  assert.equal(bytes.length, 1024);
  assert.ok(bytes.subarray(512).equals(Buffer.alloc(512, "#")));
});

test("what is no state is damaged, not an error", () => {
  for (const bytes of [Buffer.alloc(0), Buffer.alloc(1024), writeBootState(state).subarray(0, 1000)]) {
    assert.equal(readBootState(bytes), undefined);
  }
  assert.equal(readBootState(writeEnvironment(new Map([["slot", "c"]]))), undefined);
  const strange = new Map([
    ["slot", "b"],
    ["trial", "x"],
    ["tries", "-1"],
  ]);
  const read = { slot: "b", trial: undefined, tries: 0, invalid: undefined };
  assert.deepEqual(readBootState(writeEnvironment(strange)), read);
});

test("variables that GRUB cannot hold are refused", () => {
  const write = (name: string, value: string) => () => writeEnvironment(new Map([[name, value]]));
  assert.throws(write("a b", ""), { code: "E_INVALID" });
  assert.throws(write("a", "€"), { code: "E_INVALID" });
  assert.throws(write("a", "x".repeat(1000)), { code: "E_LIMIT" });
});

test("a state is written in place, in both copies, the copy first", async (t) => {
  const boot = scratch(t);
  const [main, copy] = ["grubenv", "grubenv.safe"].map((name) => join(boot, "grub", name)) as [string, string];
  mkdirSync(join(boot, "grub"));
  const store = bootStateIn(boot);
  assert.deepEqual(await store.read(), { state: undefined, isDamaged: true });
  await store.write(state);
  assert.deepEqual(await store.read(), { state, isDamaged: false });
  const places = [main, copy].map((path) => statSync(path).ino);
  await store.write({ ...state, slot: "b", trial: "a", invalid: undefined });
  assert.deepEqual(
    [main, copy].map((path) => statSync(path).ino),
    places,
  );
  // The copy knows of no trial: it could not be counted.
  assert.deepEqual(readBootState(readFileSync(copy)), { slot: "b", trial: undefined, tries: 0, invalid: undefined });

  writeFileSync(main, "nothing");
  assert.deepEqual(await store.read(), {
    state: { slot: "b", trial: undefined, tries: 0, invalid: undefined },
    isDamaged: true,
  });
  rmSync(main);
  mkdirSync(main);
  await assert.rejects(store.write(state), { code: "EISDIR" });
  // What cannot be written first changes nothing of what GRUB prefers.
  assert.equal(readBootState(readFileSync(copy))?.slot, "a");
});
