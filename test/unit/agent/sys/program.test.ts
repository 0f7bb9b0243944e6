import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { isAlive } from "../../../sim/processes.ts";
import { findProgram, runProgram, startProgram, withoutSecrets } from "../../../../agent/sys/program.ts";

const env = { PATH: process.env["PATH"] };
const never = new AbortController().signal;
const options = { env, signal: never, timeoutMs: 20_000, mostOutputBytes: 10_000 };
const sh = (script: string) => ["sh", "-c", script] as const;

test("a program runs to its end, with what it said and how it ended", async () => {
  assert.deepEqual(await runProgram(sh("echo out; echo err >&2; exit 3"), options), {
    ...{ code: 3, signal: null, stdout: "out\n", lastWords: "err" },
  });
  const { code, signal } = await runProgram(sh("kill -SEGV $$"), options);
  assert.deepEqual([code, signal], [null, "SIGSEGV"]);
  const { lastWords } = await runProgram(sh("seq 1 10000 >&2"), options);
  assert.ok(lastWords.length <= 4_096 && lastWords.endsWith("\n10000"));
  await assert.rejects(runProgram(["/no/such/program"], options), { code: "ENOENT" });
  await assert.rejects(runProgram(["no-such-program"], options), { code: "ENOENT" });
});

test("who is given up goes with all it has started, also those who do not listen to SIGTERM", async () => {
  const stubborn = "trap '' TERM; sleep 600 & echo $!; wait; wait";
  const pids: number[] = [];
  const cancel = new AbortController();
  const program = await startProgram(sh(stubborn), env, 100);
  program.stdout.on("data", (chunk: Buffer) => pids.push(Number(chunk)));
  while (pids.length === 0) await sleep(5);
  await Promise.all([program.end(), program.end()]);
  assert.deepEqual([program.pid, ...pids].filter(isAlive), []);
  assert.equal((await program.ended).signal, "SIGKILL");

  setTimeout(() => cancel.abort(new Error("enough")), 50);
  await assert.rejects(runProgram(sh(stubborn), { ...options, signal: cancel.signal, graceMs: 100 }), /enough/);
  await assert.rejects(runProgram(sh("sleep 600"), { ...options, timeoutMs: 50 }), {
    code: "E_TIMEOUT",
    message: "sh has not ended within 0.05 s",
  });
  await assert.rejects(runProgram(sh("yes"), options), { code: "E_LIMIT", message: "sh prints more than 10000 bytes" });
  // What a program leaves behind holds nobody up, and goes as well.
  const { stdout } = await runProgram(sh("sleep 600 & echo $!"), { ...options, graceMs: 100 });
  assert.equal(isAlive(Number(stdout)), false);
});

test("a program dies with the process that started it, even if that is killed", async () => {
  const script = `import("./agent/sys/program.ts").then(async ({ startProgram }) => {
    console.log((await startProgram(["sleep", "600"], process.env)).pid);
    setInterval(() => {}, 1000);
  })`;
  const parent = spawn(process.execPath, ["--import", "tsx", "-e", script], { stdio: ["ignore", "pipe", "inherit"] });
  const [line] = (await once(parent.stdout, "data")) as [Buffer];
  const pid = Number(line);
  assert.equal(isAlive(pid), true);
  parent.kill("SIGKILL");
  for (let waited = 0; isAlive(pid) && waited < 5_000; waited += 10) await sleep(10);
  assert.equal(isAlive(pid), false);
});

test("programs are found as the shell finds them", () => {
  assert.match(findProgram("sh") ?? "", /^\/.*\/sh$/);
  assert.equal(findProgram("sh", ""), undefined);
  assert.equal(findProgram("/etc/passwd"), undefined);
  assert.equal(findProgram("/etc"), undefined);
  assert.equal(findProgram("/bin/sh", ""), "/bin/sh");
});

test("secrets of the agent are not for its programs", () => {
  const own = { PATH: "/bin", CORELLIUM_API_TOKEN: "t", JMP_GRPC_PASSPHRASE: "p", NOTIFY_SOCKET: "n", my_secret: "s" };
  assert.deepEqual(withoutSecrets(own), { PATH: "/bin" });
});
