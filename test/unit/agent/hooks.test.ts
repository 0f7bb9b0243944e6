import assert from "node:assert/strict";
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, realpathSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { build } from "esbuild";
import { LogBus, type LogRecord } from "../../../agent/driver/log.ts";
import { runHook, type HookConfig, type HookContext, type HookName } from "../../../agent/hooks/hook.ts";
import { killLeftoverHooks } from "../../../agent/hooks/leftovers.ts";
import { longestLineBytes, splitLines } from "../../../agent/hooks/lines.ts";
import { findProcess, sessionMembers } from "../../../agent/hooks/process-session.ts";
import { scratch } from "../../sim/agent.ts";
import { startExporter } from "../../sim/exporter.ts";

interface Lease extends HookContext {
  readonly records: LogRecord[];
  /** Lines of hooks, in their order. */
  lines(): string[];
  /** Lines of the given kind as `SEVERITY text`. */
  told(source: LogRecord["source"]): string[];
}

function startLease(t: TestContext, given: Partial<HookContext> = {}): Lease {
  let directory = "";
  // Before the directory goes, which says what there is to end.
  t.after(() => killLeftoverHooks(directory));
  // Paths with blanks and quotes are legal.
  directory = join(scratch(t), "it's a lease");
  mkdirSync(directory, { mode: 0o700 });
  const logs = new LogBus();
  const records: LogRecord[] = [];
  logs.subscribe((record) => records.push(record));
  const from = (source: LogRecord["source"]) => records.filter((record) => record.source === source);
  return {
    lease: "lease-1",
    client: "client-1",
    hookSocket: join(directory, "socket"),
    directory,
    logs,
    env: process.env,
    signal: new AbortController().signal,
    ...given,
    records,
    lines: () =>
      records.filter(({ source, severity }) => source.endsWith("-hook") && severity === "INFO").map((r) => r.message),
    told: (source) => from(source).map(({ severity, message }) => `${severity} ${message}`),
  };
}

/** As the schema fills it in, with a limit that ends tests which hang. */
function hook(script: string, config: Partial<HookConfig> = {}): HookConfig {
  return { script, exec: null, timeout: 60, onFailure: "endLease", ...config };
}

/** The lines that a script prints. */
async function output(t: TestContext, script: string, config: Partial<HookConfig> = {}): Promise<string[]> {
  const lease = startLease(t);
  assert.deepEqual(await runHook("beforeLease", hook(script, config), lease), { kind: "ok" });
  return lease.lines();
}

/** The text of a failure. */
async function failure(t: TestContext, config: HookConfig, lease = startLease(t)): Promise<string> {
  const outcome = await runHook("beforeLease", config, lease);
  assert.equal(outcome.kind, "failed");
  return outcome.error;
}

async function until(condition: () => boolean, what: string): Promise<void> {
  const end = performance.now() + 30_000;
  while (!condition()) {
    assert.ok(performance.now() < end, `not within 30 s: ${what}`);
    await sleep(20);
  }
}

/** What the hooks of a lease have left: all processes that they were given their environment. */
function leftRunning({ directory }: HookContext): number[] {
  const ours = (pid: string) => {
    try {
      return readFileSync(`/proc/${pid}/environ`, "utf8").includes(directory) && findProcess(Number(pid)) !== undefined;
    } catch {
      return false;
    }
  };
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name) && ours(name))
    .map(Number);
}

/** Bytes that are held by something, and do not only wait for the garbage collector. */
function memoryInUse(): number {
  setFlagsFromString("--expose-gc");
  (runInNewContext("gc") as () => void)();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

function file(t: TestContext, name: string, text: string): string {
  const path = join(scratch(t), name);
  writeFileSync(path, text);
  return path;
}

describe("output", () => {
  test("is one record per line with the hook's source, as it is printed", async (t) => {
    const lease = startLease(t);
    await runHook("beforeLease", hook("echo out; echo err >&2; echo last"), lease);
    await runHook("afterLease", hook("echo after"), lease);
    assert.deepEqual(lease.told("before-lease-hook"), ["INFO out", "INFO err", "INFO last"]);
    assert.deepEqual(lease.told("after-lease-hook"), ["INFO after"]);
  });

  test("loses carriage returns and blank lines, and keeps leading blanks and colours", async (t) => {
    const script = String.raw`printf 'a\r\n\n   \n\t\n  b  \n\033[31mred\033[0m\n'`;
    assert.deepEqual(await output(t, script), ["a", "  b", "\u001b[31mred\u001b[0m"]);
  });

  test("ends with a last line that is not terminated", async (t) => {
    assert.deepEqual(await output(t, "echo first; printf second"), ["first", "second"]);
  });

  test("is UTF-8, wherever it is cut on its way, with a replacement for what is not", async (t) => {
    const script = String.raw`printf 'gr\303'; sleep 0.3; printf '\274n\n'; printf 'bad \377 byte\n'`;
    assert.deepEqual(await output(t, script), ["gr\u00fcn", "bad \ufffd byte"]);
  });

  test("is there while the hook runs", async (t) => {
    const lease = startLease(t);
    const flag = join(lease.directory, "go");
    const done = runHook("beforeLease", hook(`echo one; until test -e "$JMP_GO"; do sleep 0.05; done`), {
      ...lease,
      env: { ...process.env, JMP_GO: flag },
    });
    await until(() => lease.lines().includes("one"), "the first line");
    writeFileSync(flag, "");
    assert.deepEqual(await done, { kind: "ok" });
  });

  test("of 3 MB is complete", async (t) => {
    const lines = await output(t, "seq 1 400000");
    assert.equal(lines.length, 400_000);
    assert.equal(lines.at(-1), "400000");
  });

  test("without any line end is cut into pieces, and nothing of it is lost", async (t) => {
    const lines = await output(t, `head -c 200000 /dev/zero | tr '\\0' x; echo; echo next`);
    assert.deepEqual(
      lines.map((line) => line.length),
      [longestLineBytes, longestLineBytes, longestLineBytes, 200_000 - 3 * longestLineBytes, 4],
    );
  });

  test("is not cut within a character", () => {
    const lines: string[] = [];
    const splitter = splitLines((line) => lines.push(line));
    splitter.push(Buffer.from(`x${"\u20ac".repeat(30_000)}\n`));
    assert.equal(lines.join(""), `x${"\u20ac".repeat(30_000)}`);
    assert.ok(lines.every((line) => Buffer.byteLength(line) <= longestLineBytes));
    splitter.push(Buffer.alloc(longestLineBytes + 1, 0x80));
    splitter.end();
    assert.equal(lines.slice(2).join("").length, longestLineBytes + 1);
  });

  test("without an end takes no memory, and lets others work", async (t) => {
    const lease = startLease(t, { logs: new LogBus() });
    let count = 0;
    lease.logs.subscribe(() => (count += 1));
    let turns = 0;
    const timer = setInterval(() => (turns += 1), 10);
    const before = memoryInUse();
    const done = runHook("beforeLease", hook("exec yes", { timeout: 2 }), lease);
    await until(() => count > 100_000, "a flood");
    const grown = memoryInUse() - before;
    await done;
    clearInterval(timer);
    assert.ok(grown < 16e6, `${grown} bytes more`);
    assert.ok(turns > 20, `${turns} turns`);
  });
});

describe("what is run", () => {
  test("nothing for a blank script", async (t) => {
    const lease = startLease(t);
    assert.deepEqual(await runHook("beforeLease", hook(" \n\t"), lease), { kind: "ok" });
    assert.deepEqual(lease.told("system"), [
      "INFO Executing before-lease hook for lease lease-1",
      "INFO beforeLease hook completed successfully",
    ]);
    assert.deepEqual(readdirSync(lease.directory), []);
  });

  test("/bin/sh for lines", async (t) => {
    assert.deepEqual(await output(t, 'echo "$0"\nreadlink /proc/$$/exe'), ["/bin/sh", realpathSync("/bin/sh")]);
  });

  test("a file whose path is the script, which needs no permission to execute", async (t) => {
    const path = file(t, "hook with blanks.sh", 'echo "from $0"\n');
    assert.deepEqual(await output(t, `  ${path}\n`), [`from ${path}`]);
  });

  test("the text itself where it is no regular file, or more than one line", async (t) => {
    const lease = startLease(t);
    assert.match(await failure(t, hook("/tmp"), lease), /^Hook failed with exit code 12[67]$/);
    const path = file(t, "hook.sh", "echo file");
    assert.deepEqual(await output(t, `true ${path}\necho lines`), ["lines"]);
  });

  test("python3 for a .py file, or what JMP_PYTHON names", async (t) => {
    const path = file(t, "hook.PY", "import sys, os\nprint(sys.version_info[0], os.isatty(1), __file__)\n");
    assert.deepEqual(await output(t, path), [`3 True ${path}`]);
    const python = file(t, "my-python", '#!/bin/sh\necho "mine runs $1"\n');
    chmodSync(python, 0o755);
    const lease = startLease(t, { env: { ...process.env, JMP_PYTHON: python } });
    await runHook("beforeLease", hook(path), lease);
    assert.deepEqual(lease.lines(), [`mine runs ${path}`]);
  });

  test("`exec`, by path or by name, for lines and for files, whatever their names end in", async (t) => {
    const script = 'if [[ abc == a* ]]; then echo "bash $0"; fi';
    assert.deepEqual(await output(t, script, { exec: "/bin/bash" }), ["bash /bin/bash"]);
    assert.deepEqual(await output(t, script, { exec: "bash" }), ["bash bash"]);
    assert.deepEqual(await output(t, file(t, "hook.py", 'echo "$BASH" | grep -o bash'), { exec: "bash" }), ["bash"]);
    assert.deepEqual(await output(t, "import sys; print(len(sys.argv))", { exec: "python3" }), ["1"]);
  });

  test("a missing `exec` is told in Python's words", async (t) => {
    const words = "Error executing hook: [Errno 2] No such file or directory: ";
    assert.equal(await failure(t, hook("true", { exec: "/no/such" })), `${words}'/no/such'`);
    assert.equal(await failure(t, hook("true", { exec: "no-such-program" })), `${words}'no-such-program'`);
    assert.equal(await failure(t, hook("true", { exec: "bash -e" })), `${words}'bash -e'`);
    const text = file(t, "text", "no program");
    assert.equal(
      await failure(t, hook("true", { exec: text })),
      `Error executing hook: [Errno 13] Permission denied: '${text}'`,
    );
  });

  test("a script too long for the system is told so", async (t) => {
    const error = await failure(t, hook(`true ${"x".repeat(200_000)}`));
    assert.equal(error, "Error executing hook: [Errno 7] Argument list too long: '/bin/sh'");
  });

  test("in the agent's working directory, in a session of its own without a controlling terminal", async (t) => {
    const [cwd, ids, terminal] = await output(
      t,
      'pwd; set -- $(cat /proc/$$/stat); echo "$$ $5 $6"; (echo x >/dev/tty) 2>/dev/null || echo none',
    );
    assert.equal(cwd, process.cwd());
    const [pid, group, session] = ids?.split(" ") ?? [];
    assert.equal(group, pid);
    assert.equal(session, pid);
    assert.equal(terminal, "none");
  });

  test("on one terminal without a size, and with nothing else open", async (t) => {
    const lines = await output(
      t,
      "for fd in 0 1 2; do test -t $fd && readlink /proc/self/fd/$fd; done; stty size; ls -x /proc/$$/fd",
    );
    assert.match(lines[0] ?? "", /^\/dev\/pts\/\d+$/);
    assert.deepEqual([lines[1], lines[2]], [lines[0], lines[0]]);
    assert.equal(lines[3], "0 0");
    // dash keeps a copy of its own at 10 and above.
    assert.match(lines[4] ?? "", /^0 +1 +2( +1\d)?$/);
  });
});

describe("the environment", () => {
  const dump = "env -0 | tr '\\n\\0' '~\\n'";

  async function environment(t: TestContext, name: HookName, given: Partial<HookContext> = {}) {
    const env = { PATH: process.env["PATH"], PS1: "$ ", JMP_MOTD_FILE: "/inherited", TERM: "xterm", MINE: "a b'c" };
    const lease = startLease(t, { env, ...given });
    assert.deepEqual(await runHook(name, hook(dump), lease), { kind: "ok" });
    const pairs = lease.lines().map((line) => [line.slice(0, line.indexOf("=")), line.slice(line.indexOf("=") + 1)]);
    return { lease, env: Object.fromEntries(pairs) as Record<string, string> };
  }

  test("is the agent's own with what hooks need, and without a prompt", async (t) => {
    const { env, lease } = await environment(t, "beforeLease");
    // Node hands its coverage on to every child, whatever environment that is given.
    const { PWD: _pwd, OLDPWD: _old, SHLVL: _level, _: _last, NODE_V8_COVERAGE: _coverage, ...own } = env;
    const { JMP_MOTD_FILE, ...rest } = own;
    assert.deepEqual(rest, {
      MINE: "a b'c",
      PATH: `${lease.directory}/bin:${process.env["PATH"]}`,
      JUMPSTARTER_HOST: lease.hookSocket,
      JMP_DRIVERS_ALLOW: "UNSAFE",
      LEASE_NAME: "lease-1",
      CLIENT_NAME: "client-1",
      TERM: "dumb",
      DEBIAN_FRONTEND: "noninteractive",
      GIT_TERMINAL_PROMPT: "0",
    });
    assert.ok(JMP_MOTD_FILE?.startsWith(lease.directory));
  });

  test("names no motd file to an afterLease hook, not even an inherited one", async (t) => {
    const { env } = await environment(t, "afterLease");
    assert.equal("JMP_MOTD_FILE" in env, false);
  });

  test("has a client name also where there is no client, and a PATH where there was none", async (t) => {
    const { env, lease } = await environment(t, "afterLease", { lease: "standalone", client: "", env: {} });
    assert.equal(env["LEASE_NAME"], "standalone");
    assert.equal(env["CLIENT_NAME"], "");
    assert.equal(env["PATH"], `${lease.directory}/bin:/usr/local/bin:/usr/bin:/bin`);
  });
});

describe("how it ends", () => {
  test("0 is success, anything else is told", async (t) => {
    for (const code of [1, 3, 127, 255]) {
      assert.equal(await failure(t, hook(`exit ${code}`)), `Hook failed with exit code ${code}`);
    }
  });

  test("a signal is its number below zero", async (t) => {
    assert.equal(await failure(t, hook("kill -9 $$")), "Hook failed with exit code -9");
    assert.equal(await failure(t, hook("kill -TERM $$")), "Hook failed with exit code -15");
    assert.equal(await failure(t, hook("kill -USR1 $$")), "Hook failed with exit code -10");
  });

  for (const onFailure of ["warn", "endLease", "exit"] as const) {
    test(`a failure with onFailure ${onFailure} is logged as clients know it`, async (t) => {
      const lease = startLease(t);
      const outcome = await runHook("beforeLease", hook("echo x; exit 3", { onFailure }), lease);
      const error = "Hook failed with exit code 3";
      assert.deepEqual(outcome, { kind: "failed", error, onFailure });
      const line =
        onFailure === "warn"
          ? `WARNING ${error} (on_failure=warn, continuing)`
          : `ERROR ${error} (on_failure=${onFailure}, raising exception)`;
      assert.deepEqual(lease.told("before-lease-hook"), ["INFO x", line]);
      assert.deepEqual(lease.told("system"), [
        "INFO Executing before-lease hook for lease lease-1",
        `INFO Using dedicated hook socket: ${lease.hookSocket}`,
        ...(onFailure === "warn" ? ["INFO beforeLease hook completed successfully"] : []),
      ]);
    });
  }

  test("success of an afterLease hook is logged as clients know it", async (t) => {
    const lease = startLease(t);
    await runHook("afterLease", hook("true"), lease);
    assert.deepEqual(lease.told("system"), [
      "INFO Executing after-lease hook for lease lease-1",
      `INFO Using dedicated hook socket: ${lease.hookSocket}`,
      "INFO afterLease hook completed successfully",
    ]);
    assert.deepEqual(lease.told("after-lease-hook"), []);
  });

  test("without the package for system calls it fails and says what to install", async (t) => {
    const module = new URL("../../../agent/hooks/hook.ts", import.meta.url).href;
    const bus = new URL("../../../agent/driver/log.ts", import.meta.url).href;
    const resolver = `export const resolve = (name, context, next) => {
      if (name === "koffi") throw Object.assign(new Error("none"), { code: "ERR_MODULE_NOT_FOUND" });
      return next(name, context);
    };`;
    const code = `
      import { register } from "node:module";
      register("data:text/javascript," + encodeURIComponent(${JSON.stringify(resolver)}));
      const { runHook } = await import(${JSON.stringify(module)});
      const { LogBus } = await import(${JSON.stringify(bus)});
      const context = { lease: "l", client: "c", hookSocket: "/s", directory: process.argv[1], logs: new LogBus(), env: process.env };
      const config = { script: "true", exec: null, timeout: 5, onFailure: "exit" };
      console.log((await runHook("afterLease", config, { ...context, signal: new AbortController().signal })).error);`;
    const words = ["--import", "tsx", "--input-type=module", "-e", code, scratch(t)];
    const { stdout, stderr } = spawnSync(process.execPath, words, { encoding: "utf8", timeout: 60_000 });
    assert.equal(
      stdout,
      "Error executing hook: the native package koffi cannot be loaded on this machine (install it beside the agent: npm install koffi)\n",
      stderr,
    );
  });
});

describe("time", { concurrency: true }, () => {
  test("reading what nobody types lasts until the timeout", async (t) => {
    const lease = startLease(t);
    assert.equal(
      await failure(t, hook("echo before; read line; echo after", { timeout: 1 }), lease),
      "Hook timed out after 1 seconds",
    );
    assert.deepEqual(lease.told("before-lease-hook"), [
      "INFO before",
      "ERROR Hook timed out after 1 seconds",
      "ERROR Hook timed out after 1 seconds (on_failure=endLease, raising exception)",
    ]);
    assert.deepEqual(leftRunning(lease), []);
  });

  test("a shell that ignores SIGTERM is killed 5 s after the timeout, with what it started in whatever group", async (t) => {
    const lease = startLease(t);
    const start = performance.now();
    const script = `trap "" TERM; sh -c "sleep 1000; sleep 1000" & timeout 1000 sleep 1000 & setsid sh -c "exit" ; echo up; sleep 1000; sleep 1000`;
    assert.equal(await failure(t, hook(script, { timeout: 1 }), lease), "Hook timed out after 1 seconds");
    assert.ok(performance.now() - start >= 6_000);
    assert.deepEqual(lease.lines(), ["up"]);
    assert.deepEqual(leftRunning(lease), []);
  });

  test("a grandchild that ignores SIGTERM goes, also when the shell itself heeds it", async (t) => {
    const lease = startLease(t);
    const script = `sh -c 'trap "" TERM; echo up; sleep 1000; sleep 1000' & wait`;
    assert.equal(await failure(t, hook(script, { timeout: 1 }), lease), "Hook timed out after 1 seconds");
    assert.deepEqual(leftRunning(lease), []);
  });

  test("what a hook says when it is told to go is logged", async (t) => {
    const lease = startLease(t);
    await failure(t, hook(`trap 'echo goodbye; exit 0' TERM; while :; do sleep 0.1; done`, { timeout: 1 }), lease);
    assert.equal(lease.lines().at(-1), "goodbye");
  });

  test("an abort ends it at once, as a failure", async (t) => {
    const stop = new AbortController();
    const lease = startLease(t, { signal: stop.signal });
    const done = failure(t, hook("echo up; sleep 1000"), lease);
    await until(() => lease.lines().includes("up"), "the hook runs");
    stop.abort();
    assert.equal(await done, "Hook was stopped before its end");
    assert.deepEqual(leftRunning(lease), []);
  });

  test("after an abort it does not even start", async (t) => {
    const lease = startLease(t, { signal: AbortSignal.abort() });
    assert.equal(await failure(t, hook("echo up"), lease), "Hook was stopped before its end");
    assert.deepEqual(lease.lines(), []);
  });

  test("a process in the background that holds the terminal delays the end by about a second", async (t) => {
    const lease = startLease(t);
    const start = performance.now();
    assert.deepEqual(
      await runHook("beforeLease", hook("(echo early; sleep 20; echo late; sleep 1000) & echo done"), lease),
      { kind: "ok" },
    );
    const took = performance.now() - start;
    // A second, and what a busy machine takes to start a shell.
    assert.ok(took >= 1_000 && took < 15_000, `${took} ms`);
    assert.deepEqual(lease.lines().sort(), ["done", "early"]);
    assert.notDeepEqual(leftRunning(lease), []);
    await killLeftoverHooks(lease.directory);
    assert.deepEqual(leftRunning(lease), []);
  });

  test("a process in the background that floods the terminal delays the end by no more than its share", async (t) => {
    const lease = startLease(t);
    assert.deepEqual(
      await runHook("beforeLease", hook("(while :; do echo more; sleep 0.05; done) & echo done"), lease),
      { kind: "ok" },
    );
    assert.ok(lease.lines().filter((line) => line === "more").length < 100);
  });

  test("a background process that lets go of the terminal delays nothing", async (t) => {
    const lease = startLease(t);
    const script = "sleep 1000 >/dev/null 2>&1 </dev/null & echo done";
    assert.deepEqual(await runHook("beforeLease", hook(script), lease), { kind: "ok" });
    assert.deepEqual(lease.lines(), ["done"]);
  });

  test("a timeout longer than timers can wait is no timeout at once", async (t) => {
    const lease = startLease(t);
    assert.deepEqual(await runHook("beforeLease", hook("sleep 0.2", { timeout: 10_000_000 }), lease), { kind: "ok" });
  });
});

describe("the message of the day", () => {
  async function motd(t: TestContext, script: string, config: Partial<HookConfig> = {}) {
    const lease = startLease(t);
    const outcome = await runHook("beforeLease", hook(script, config), lease);
    assert.equal(existsSync(join(lease.directory, "motd")), false);
    return { motd: outcome.motd, told: lease.told("system").filter((line) => line.startsWith("WARNING")) };
  }

  test("is what the hook leaves in its file, without the blanks around it", async (t) => {
    const script =
      'test -f "$JMP_MOTD_FILE" && test ! -s "$JMP_MOTD_FILE" && printf "\\n hello\\n there \\n\\n" >"$JMP_MOTD_FILE"';
    assert.deepEqual(await motd(t, script), { motd: "hello\n there", told: [] });
  });

  test("is nothing if the hook leaves nothing", async (t) => {
    assert.deepEqual(await motd(t, "true"), { motd: undefined, told: [] });
    assert.deepEqual(await motd(t, 'echo " " >"$JMP_MOTD_FILE"'), { motd: undefined, told: [] });
  });

  test("counts after a failure that is only a warning, and after no other", async (t) => {
    const script = 'echo hello >"$JMP_MOTD_FILE"; exit 1';
    assert.equal((await motd(t, script, { onFailure: "warn" })).motd, "hello");
    assert.equal((await motd(t, script, { onFailure: "endLease" })).motd, undefined);
  });

  test("may come through a link, but from regular files only", async (t) => {
    const there = file(t, "there", "linked\n");
    assert.equal((await motd(t, `ln -sf ${there} "$JMP_MOTD_FILE"`)).motd, "linked");
    for (const swap of ['mkfifo "$JMP_MOTD_FILE"', 'ln -s /dev/zero "$JMP_MOTD_FILE"', 'mkdir "$JMP_MOTD_FILE"', ":"]) {
      const { motd: text, told } = await motd(t, `rm "$JMP_MOTD_FILE"; ${swap}`);
      assert.equal(text, undefined);
      assert.equal(told.length, 1, swap);
    }
  });

  test("is no longer than 64 KiB", async (t) => {
    const { motd: text } = await motd(t, `yes '\u20ac' | tr -d '\\n' | head -c 3000000 >"$JMP_MOTD_FILE"`);
    assert.equal(text, "\u20ac".repeat(Math.floor(65_536 / 3)));
  });

  test("is not the afterLease hook's to say", async (t) => {
    assert.deepEqual(await runHook("afterLease", hook('test -z "${JMP_MOTD_FILE+set}"'), startLease(t)), {
      kind: "ok",
    });
  });
});

describe("j", () => {
  test("is our own, first on the PATH, and reaches the exporter's drivers", async (t) => {
    const { socketPath } = await startExporter(t, {
      power: { type: "jumpstarter_driver_power.driver.MockPower", config: {} },
    });
    const lease = startLease(t, { hookSocket: socketPath });
    const outcome = await runHook(
      "beforeLease",
      hook("command -v j; j power on && echo switched; j power read | head -n 1"),
      lease,
    );
    assert.deepEqual(outcome, { kind: "ok" }, lease.lines().join("\n"));
    assert.equal(lease.lines()[0], join(lease.directory, "bin", "j"));
    assert.ok(lease.lines().includes("switched"));
  });

  test("is another program if JMP_AGENT_J names one", async (t) => {
    const other = file(t, "other j", '#!/bin/sh\necho "other: $*"\n');
    chmodSync(other, 0o755);
    const lease = startLease(t, { env: { ...process.env, JMP_AGENT_J: other } });
    await runHook("beforeLease", hook("j 'power  on'"), lease);
    await runHook("afterLease", hook("j power off"), lease);
    assert.deepEqual(lease.lines(), ["other: power  on", "other: power off"]);
    const missing = startLease(t, { env: { ...process.env, JMP_AGENT_J: "/no/such/j" } });
    assert.equal(
      await failure(t, hook("true"), missing),
      "Error executing hook: [Errno 2] No such file or directory: '/no/such/j'",
    );
  });

  test("is found beside the bundle that runs, wherever that lies, and gets its words as they are", async (t) => {
    const home = join(scratch(t), `it's "$(here)" \`x\``);
    const fake = file(t, "fake.ts", "console.log(JSON.stringify(process.argv.slice(2)));");
    await build({
      entryPoints: { "jmp-agent": "agent/hooks/launcher.ts", j: fake, "chunks/deeper": "agent/hooks/launcher.ts" },
      ...{ outdir: home, bundle: true, splitting: true, format: "esm", platform: "node", logLevel: "error" },
      external: ["koffi"],
    });
    writeFileSync(join(home, "package.json"), '{ "type": "module" }');
    for (const entry of ["jmp-agent.js", "chunks/deeper.js"]) {
      const { installLauncher } = (await import(
        join(home, entry).replaceAll("%", "%25")
      )) as typeof import("../../../agent/hooks/launcher.ts");
      const directory = scratch(t);
      await installLauncher(directory, {});
      const words = ["a b", "$(x)", "'", "", "\n"];
      assert.deepEqual(JSON.parse(execFileSync(join(directory, "bin/j"), words, { encoding: "utf8" })), words);
    }
  });
});

describe("many", () => {
  test("50 at once all get through, and the event loop and its threads stay free", async (t) => {
    const lease = startLease(t);
    const free = (async () => {
      const start = performance.now();
      await (await import("node:fs/promises")).readFile("/etc/hostname").catch(() => {});
      return performance.now() - start;
    })();
    const outcomes = await Promise.all(
      Array.from({ length: 50 }, async (_, index) => {
        const one = { ...lease, directory: join(lease.directory, String(index)), lease: `lease-${index}` };
        mkdirSync(one.directory);
        return await runHook("afterLease", hook('echo "begin $LEASE_NAME"; sleep 1; echo "end $LEASE_NAME"'), one);
      }),
    );
    assert.ok(outcomes.every(({ kind }) => kind === "ok"));
    assert.ok((await free) < 10_000);
    assert.equal(new Set(lease.lines()).size, 100);
  });

  test("100 one after the other leave no descriptor, child or file", async (t) => {
    const lease = startLease(t);
    const left = () => [
      readdirSync("/proc/self/fd").length,
      readFileSync(`/proc/self/task/${process.pid}/children`, "latin1").trim().split(" ").filter(Boolean).length,
    ];
    await runHook("beforeLease", hook("true"), lease);
    const before = left();
    for (let count = 0; count < 100; count += 1) {
      const script = count % 10 === 0 ? "no-such-program" : 'echo x >"$JMP_MOTD_FILE"';
      await runHook("beforeLease", hook(script, count % 7 === 0 ? { exec: "/no/such" } : {}), lease);
    }
    assert.deepEqual(left(), before);
    assert.deepEqual(readdirSync(lease.directory).sort(), ["bin", "hook.pid"]);
  });
});

describe("what is left of a lease", () => {
  /** An agent of its own that runs one hook. */
  async function startAgent(t: TestContext, lease: HookContext, script: string) {
    const at = (path: string) => JSON.stringify(new URL(`../../../agent/${path}`, import.meta.url).href);
    const code = `
      import { runHook } from ${at("hooks/hook.ts")};
      import { LogBus } from ${at("driver/log.ts")};
      const [directory, script] = process.argv.slice(1);
      const logs = new LogBus();
      logs.subscribe(({ message }) => console.log(message));
      await runHook("beforeLease", { script, exec: null, timeout: 600, onFailure: "exit" },
        { lease: "l", client: "c", hookSocket: directory + "/socket", directory, logs, env: process.env, signal: new AbortController().signal });`;
    const child = spawn(
      process.execPath,
      ["--import", "tsx", "--input-type=module", "-e", code, lease.directory, script],
      {
        stdio: ["ignore", "pipe", "inherit"],
      },
    );
    t.after(() => child.kill("SIGKILL"));
    let printed = "";
    child.stdout.on("data", (chunk: Buffer) => (printed += chunk.toString()));
    await until(() => printed.includes("hook is up"), "the hook runs");
    return child;
  }

  test("when the agent is killed the hook dies with it, and the next agent ends what it had started", async (t) => {
    const lease = startLease(t);
    const script = `trap "" TERM; sh -c 'echo $$ >"$JMP_MOTD_FILE"; trap "" TERM; sleep 1000; sleep 1000' & echo "hook is up"; sleep 1000; sleep 1000`;
    const agent = await startAgent(t, lease, script);
    const [pid] = readFileSync(join(lease.directory, "hook.pid"), "latin1").split(" ").map(Number);
    assert.ok(pid !== undefined && findProcess(pid)?.session === pid);
    agent.kill("SIGKILL");
    await once(agent, "exit");
    await until(() => findProcess(pid) === undefined, "the hook is gone");
    assert.notDeepEqual(leftRunning(lease), []);
    await killLeftoverHooks(lease.directory);
    assert.deepEqual(leftRunning(lease), []);
    assert.deepEqual(sessionMembers(pid), []);
  });

  test("a session that only has the number of a former hook is left alone", async (t) => {
    const boot = readFileSync("/proc/sys/kernel/random/boot_id", "latin1").trim();
    const bystander = spawn("sleep", ["1000"], { detached: true, stdio: "ignore" });
    t.after(() => bystander.kill("SIGKILL"));
    await once(bystander, "spawn");
    const pid = bystander.pid as number;
    const { startTime } = findProcess(pid) ?? {};
    // A daemon whose first process has ended.
    const daemon = spawn("sh", ["-c", "sleep 1000 & exit"], { detached: true, stdio: "ignore" });
    const orphans = () => sessionMembers(Number(daemon.pid));
    t.after(() => orphans().forEach((orphan) => process.kill(orphan.pid, "SIGKILL")));
    await once(daemon, "exit");
    assert.equal(orphans().length, 1);

    const lease = startLease(t);
    const lines = [
      `${pid} ${Number(startTime) - 1} ${boot}`,
      `${pid} ${startTime} another-boot`,
      `${daemon.pid} 1 ${boot}`,
      `1 1 ${boot}`,
      `0 1 ${boot}`,
      `-1 1 ${boot}`,
      "nonsense",
    ];
    writeFileSync(join(lease.directory, "hook.pid"), `${lines.join("\n")}\n`);
    await killLeftoverHooks(lease.directory);
    assert.notEqual(findProcess(pid), undefined);
    assert.equal(orphans().length, 1);
    // The same with the right words ends it, so the lines above were read.
    writeFileSync(join(lease.directory, "hook.pid"), `${pid} ${startTime} ${boot}\n`);
    await killLeftoverHooks(lease.directory);
    assert.equal(findProcess(pid), undefined);
  });

  test("nothing is not a problem", async (t) => {
    await killLeftoverHooks(scratch(t));
    await killLeftoverHooks(join(scratch(t), "missing"));
  });
});
