import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { test, type TestContext } from "node:test";
import { missingPrograms } from "../../scripts/programs.mjs";
import { download, folderWith, startTftp } from "../sim/tftp.ts";

const missing = missingPrograms(["strace"]).length > 0 || process.getuid?.() !== 0;
if (missing && process.env["CI"]) throw new Error("these tests need strace, and root");
const skip = missing ? "needs strace, and root" : false;

/** Has the kernel answer some of this process's sendmmsg calls with an error, until the test ends. */
async function refuseRuns(t: TestContext, errors: string): Promise<void> {
  const words = ["-f", "-e", "trace=sendmmsg", "-e", `inject=sendmmsg:error=${errors}`, "-p", String(process.pid)];
  const strace = spawn("strace", words, { stdio: ["ignore", "ignore", "pipe"] });
  t.after(async () => {
    strace.kill();
    await once(strace, "exit");
  });
  let said = "";
  strace.stderr.on("data", (chunk: Buffer) => (said += chunk.toString()));
  while (!said.includes("attached")) await once(strace.stderr, "data");
}

for (const [errors, what] of [
  ["EMSGSIZE:when=1", "a block is larger than the MTU"],
  ["EIO:when=1", "the interface computes no checksums"],
  ["ENOSYS:when=1..2", "the system has no such call"],
  ["EAGAIN:when=3+2", "the send buffer is full now and then"],
  ["ENOBUFS:when=2+3", "a queue below is full now and then"],
] as const) {
  test(`a window is sent whole where ${what}`, { skip }, async (t) => {
    const whole = randomBytes(2 << 20);
    const { port } = await startTftp(t, await folderWith(t, { file: whole }));
    await refuseRuns(t, errors);
    const startedMs = performance.now();
    const options = [["blksize", "1468"], ["windowsize", "16"]] as const; // prettier-ignore
    assert.ok((await download(t, { port, filename: "file", options })).equals(whole));
    // Each window that was not sent whole would have cost a timeout; there are 90 of them.
    assert.ok(performance.now() - startedMs < 5_000);
  });
}
