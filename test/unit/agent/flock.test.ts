import assert from "node:assert/strict";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { loadTryLock, operations } from "../../../agent/sys/flock.ts";
import { scratch } from "../../sim/agent.ts";
import { cValues, noCompiler } from "../../sim/c-values.ts";

test("numbers of locks are those of the C library's headers", { skip: noCompiler }, (t) => {
  assert.deepEqual(cValues(t, ["sys/file.h"], Object.keys(operations)), Object.values(operations));
});

test("a lock belongs to one opening of a file: shared ones go together, an exclusive one with none", async (t) => {
  const tryLock = await loadTryLock();
  const path = join(scratch(t), "lock");
  const [first, second, third] = await Promise.all([open(path, "w"), open(path, "w"), open(path, "w")]);
  assert.ok(tryLock(first.fd, "shared") && tryLock(second.fd, "shared"));
  assert.equal(tryLock(third.fd, "exclusive"), false);
  await first.close();
  assert.equal(tryLock(third.fd, "exclusive"), false);
  await second.close();
  assert.equal(tryLock(third.fd, "exclusive"), true);
  await third.close();
  assert.throws(() => tryLock(999_999, "shared"), { code: "EBADF" });
});
