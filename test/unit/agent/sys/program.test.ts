import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { eventually } from "../../../sim/rig.ts";
import { isAlive } from "../../../sim/processes.ts";
import { describeExit, findProgram, runProgram, startProgram, withoutSecrets } from "../../../../agent/sys/program.ts";

const env = { PATH: process.env["PATH"] };
const never = new AbortController().signal;
const options = { env, signal: never, timeoutMs: 20_000, mostOutputBytes: 10_000 };
const sh = (script: string) => ["sh", "-c", script] as const;

test("a program runs to its end, with what it said and how it ended", async () => {
  assert.deepEqual(await runProgram(sh("echo out; echo err >&2; exit 3"), options), {
    ...{ code: 3, signal: null, stdout: "out\n", stderr: "err\n" },
  });
  const { code, signal } = await runProgram(sh("kill -SEGV $$"), options);
  assert.deepEqual([code, signal], [null, "SIGSEGV"]);
  const { stderr } = await runProgram(sh("seq 1 100000 >&2"), options);
  assert.ok(stderr.length <= 65_536 && stderr.endsWith("\n100000\n"));
  const { mostOutputBytes: _most, ...endless } = options;
  const { stdout } = await runProgram(sh("seq 1 100000"), endless);
  assert.ok(stdout.length <= 65_536 && stdout.endsWith("\n100000\n"));
});

test("who is given up goes with all it has started, also those who do not listen to SIGTERM", async () => {
  const stubborn = "trap '' TERM; sleep 600 & echo $!; wait; wait";
  const pids: number[] = [];
  const cancel = new AbortController();
  const program = await startProgram(sh(stubborn), { env, graceMs: 100, onLine: (line) => pids.push(Number(line)) });
  while (pids.length === 0) await sleep(5);
  await Promise.all([program.stop(), program.stop()]);
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
  await eventually("what it left behind has gone", () => !isAlive(Number(stdout)));
});

test("a program dies with the process that started it, even if that is killed", async () => {
  const script = `import("./agent/sys/program.ts").then(async ({ startProgram }) => {
    console.log((await startProgram(["sleep", "600"])).pid);
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

test("a program that is not there", async () => {
  for (const name of ["/no/such/program", "no-such-program"]) {
    await assert.rejects(startProgram([name], { env }), { code: "ENOENT" });
    await assert.rejects(runProgram([name], { ...options, install: "apt install it" }), {
      code: "E_DEVICE_OFFLINE",
      message: `${name} is not installed on the exporter's host (apt install it)`,
      hint: "apt install it",
    });
  }
  await assert.rejects(startProgram(["/etc/passwd"], { env }), { code: "EACCES" });
});

test("what a program prints is told line by line, and its end remembered", async () => {
  const lines: string[] = [];
  const onLine = (line: string, from: string) => lines.push(`${from}: ${line}`);
  const program = await startProgram(
    sh("printf '10 %%\\r20 %%\\r\\n\\n=====\\nlast'; sleep 0.1; echo no >&2; exit 2"),
    { env, onLine },
  );
  assert.equal(program.hasEnded, false);
  assert.equal(describeExit(await program.ended), "exit status 2");
  assert.equal(program.hasEnded, true);
  assert.deepEqual(lines.toSorted(), ["stderr: no", "stdout: 10 %", "stdout: 20 %", "stdout: =====", "stdout: last"]);
  assert.equal(program.lastWords, "20 % / no / last");
  const silent = await startProgram(["true"], { env });
  await silent.ended;
  assert.equal(silent.lastWords, "it printed nothing");
  await assert.rejects(runProgram(sh("echo waiting; sleep 600"), { ...options, timeoutMs: 200, late: "too late" }), {
    code: "E_TIMEOUT",
    message: "too late: waiting",
  });
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
