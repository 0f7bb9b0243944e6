import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { createExporter } from "../../../agent/session/exporter.ts";
import { invokeUnary } from "../../../agent/driver/invoke.ts";
import { shell } from "../../../boards/shell/interface.ts";

type Output = [string, string, number | null];

async function open(t: TestContext, config: Record<string, unknown>) {
  const exporter = await createExporter({
    name: "test",
    export: { shell: { type: "jumpstarter_driver_shell.driver.Shell", config } },
  });
  t.after(() => exporter.close());
  return exporter;
}

async function calls(t: TestContext, config: Record<string, unknown>, options: { signal?: AbortSignal } = {}) {
  return (await open(t, config)).calls("shell", shell, options);
}

type CallMethod = (name: string, env?: Record<string, string> | null, ...args: string[]) => AsyncIterable<Output>;

/** Runs one script of the configuration to its end. */
async function run(t: TestContext, command: string, env: Record<string, string> | null = null, ...args: string[]) {
  const { call_method } = await calls(t, { methods: { it: command } });
  return all((call_method as CallMethod)("it", env, ...args));
}

async function all(pieces: AsyncIterable<Output>) {
  const result = { stdout: "", stderr: "", code: null as number | null, pieces: 0 };
  for await (const [stdout, stderr, code] of pieces) {
    assert.equal(result.code, null, "the exit code comes last");
    result.stdout += stdout;
    result.stderr += stderr;
    result.code = code;
    result.pieces += 1;
  }
  return result;
}

const isAlive = (pid: number) => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

/** Waits until the process is gone or a zombie (nobody reaps orphans in some containers). */
async function gone(pid: number): Promise<void> {
  while (isAlive(pid)) {
    const stat = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => "");
    if (stat === "" || /\) Z /.test(stat)) return;
    await sleep(20);
  }
}

test("a script gets its name, arguments and environment; output, errors and exit code come back", async (t) => {
  assert.deepEqual(await run(t, 'echo "$0 $1|$2 $#"; echo oops >&2; exit 42', null, "a b", "ü"), {
    ...{ stdout: "it a b|ü 2\n", stderr: "oops\n", code: 42 },
    pieces: 3,
  });
  assert.equal((await run(t, 'echo "$ENV1"; echo line2', { ENV1: "v'\"$x" })).stdout, "v'\"$x\nline2\n");
  assert.equal((await run(t, "kill -9 $$")).code, -9);
  assert.equal((await run(t, "cat")).code, 0); // stdin is empty, not the exporter's
  const { call_method } = await calls(t, { methods: { hello: {} }, cwd: "/", env: { X: "from config" } });
  assert.equal((await all(call_method("hello") as AsyncIterable<Output>)).stdout, "Hello\n");
});

test("names, descriptions and limits come from the configuration", async (t) => {
  const exporter = await open(t, {
    methods: { b: "true", a: { command: "true", description: "Does it" }, c: { command: "false", timeout: 5 } },
  });
  assert.deepEqual(await exporter.calls("shell", shell).get_methods(), ["b", "a", "c"]);
  assert.deepEqual(exporter.tree.root.children.get("shell")?.methodsDescription, { a: "Does it" });
});

test("what is not allowed is refused with the texts that clients know", async (t) => {
  const { call_method } = await calls(t, { methods: { a: "true", empty: "  " } });
  const call = call_method as CallMethod;
  const refused = (pieces: AsyncIterable<Output>, message: string | RegExp) =>
    assert.rejects(all(pieces), { code: "E_INVALID", message });
  await refused(call("x"), "Method 'x' not found in available methods: ['a', 'empty']");
  await refused(call("empty"), "Shell script must be a non-empty string");
  await refused(call("a", { "1X": "" }), "Invalid environment variable name: 1X");
  await refused(call("a", { "A-B": "" }), "Invalid environment variable name: A-B");
  for (const name of "LD_PRELOAD LD_AUDIT PATH PYTHONPATH BASH_ENV KUBECONFIG HOME BASH_FUNC_x ENV IFS".split(" ")) {
    await refused(call("a", { [name]: "x" }), `Environment variable '${name}' is blocked for security reasons`);
  }
  await refused(call("a", null, 5 as unknown as string), /^All arguments must be strings, got number/);
  await refused(call("a", { N: 5 as unknown as string }), /expected string/);
  const elsewhere = await calls(t, { methods: { a: "true" }, cwd: "/no/such/dir" });
  await refused(elsewhere.call_method("a") as AsyncIterable<Output>, "Working directory does not exist: /no/such/dir");
  const missing = await calls(t, { methods: { a: "true" }, shell: ["/no/such/shell"] });
  await assert.rejects(all(missing.call_method("a") as AsyncIterable<Output>), { code: "ENOENT" });
});

test("the exporter's own secrets are not passed on", async (t) => {
  process.env["JMP_TEST_TOKEN"] = "s3cret";
  t.after(() => delete process.env["JMP_TEST_TOKEN"]);
  const { stdout } = await run(t, "env");
  assert.doesNotMatch(stdout, /s3cret/);
  assert.match(stdout, /^PATH=/m);
});

test("output arrives while the script runs, and characters are never cut", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "jmp-shell-"));
  t.after(() => rm(folder, { recursive: true }));
  const go = join(folder, "go");
  // Goes on only when the first output has been seen.
  const script = `printf '\\xc3'; sleep 0.2; printf '\\xbc!'; until [ -e ${go} ]; do sleep 0.02; done; echo end`;
  const { call_method } = await calls(t, { methods: { slow: script } });
  let text = "";
  for await (const [stdout] of call_method("slow") as AsyncIterable<Output>) {
    text += stdout;
    if (text === "ü!") await writeFile(go, "");
  }
  assert.equal(text, "ü!end\n");
});

test("a slow reader holds the script up and gets all of it", async (t) => {
  const { call_method } = await calls(t, {
    methods: { much: "head -c 20000000 /dev/zero | tr '\\0' x; echo done >&2" },
  });
  let length = 0;
  let last = "";
  for await (const [stdout, stderr] of call_method("much") as AsyncIterable<Output>) {
    length += stdout.length;
    last += stderr;
    if (length < 1_000_000) await sleep(10);
  }
  assert.equal(length, 20_000_000);
  assert.equal(last, "done\n");
});

test("when the time is up the whole group dies, what was written still arrives, and the code is 199", async (t) => {
  const { call_method } = await calls(t, {
    methods: { stuck: { command: "echo started; sleep 1000 & echo $!; wait", timeout: 0.5 } },
  });
  const { stdout, stderr, code } = await all(call_method("stuck") as AsyncIterable<Output>);
  assert.equal(code, 199);
  assert.match(stderr, /\nTimeout expired while running stuck: .*timed out after 0.5 seconds\n/);
  const [started, pid] = stdout.split("\n");
  assert.equal(started, "started");
  await gone(Number(pid));
});

test("a daemon that keeps the pipes open does not keep the call", async (t) => {
  const { stdout, code } = await run(t, "setsid sleep 30 & echo $!");
  t.after(() => process.kill(Number(stdout)));
  assert.equal(code, 0);
});

for (const [how, daemon] of [
  ["now and then", "sh -c 'while echo tick; do sleep 0.05; done'"],
  ["without a pause", "yes tick"],
]) {
  test(`a daemon that goes on talking ${how} does not keep the call either`, async (t) => {
    const { stdout, stderr, code } = await run(t, `setsid ${daemon} & echo end`);
    assert.deepEqual([code, stderr], [0, ""]);
    // How much the daemon says until the script has ended is the machine's affair.
    assert.match(stdout, /^end$/m);
  });
}

test("cancelling the call ends the whole group, and a client that walks away too", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "jmp-shell-"));
  t.after(() => rm(folder, { recursive: true }));
  const given = new AbortController();
  const methods = { stuck: "sleep 1000 & echo $!; wait" };
  const { call_method } = await calls(t, { methods }, { signal: given.signal });
  let pid = 0;
  const cancelled = (async () => {
    for await (const [stdout] of call_method("stuck") as AsyncIterable<Output>) {
      pid = Number(stdout);
      given.abort();
    }
  })();
  await assert.rejects(cancelled, { code: "E_CANCELLED" });
  await gone(pid);
  const patient = await calls(t, { methods });
  for await (const [stdout] of patient.call_method("stuck") as AsyncIterable<Output>) {
    pid = Number(stdout);
    break;
  }
  await gone(pid);
});

test("an old client's unary call gets everything at once", async (t) => {
  const exporter = await open(t, {
    methods: { it: "echo out; echo err >&2; exit 3", big: "head -c 3000000 /dev/zero | tr '\\0' x" },
  });
  const driver = exporter.tree.root.children.get("shell");
  assert.ok(driver !== undefined);
  const once = async (...args: unknown[]) => {
    const { call, done } = exporter.beginCall(driver, new AbortController());
    try {
      return (await invokeUnary(driver, "call_method", args, call)) as Output;
    } finally {
      done();
    }
  };
  assert.deepEqual(await once("it", {}), ["out\n", "err\n", 3]);
  const [stdout, stderr, code] = await once("big", null);
  assert.equal(stdout.length, 1024 * 1024);
  assert.match(stderr, /\[output cut after \d+ characters\]/);
  assert.equal(code, 0);
});
