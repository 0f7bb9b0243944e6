import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { closeSync, readdirSync, readFileSync, readSync, writeSync } from "node:fs";
import { test } from "node:test";
import { isatty } from "node:tty";
import { loadPtys } from "../../../agent/sys/pty.ts";

const ptys = await loadPtys();

function openDescriptors(): number {
  return readdirSync("/proc/self/fd").length;
}

test("both ends are terminals, and what goes in at one comes out at the other", () => {
  const { controller, terminal } = ptys.open();
  try {
    assert.equal(isatty(controller), true);
    assert.equal(isatty(terminal), true);
    writeSync(terminal, "hello\n");
    const bytes = Buffer.alloc(64);
    assert.equal(bytes.toString("latin1", 0, readSync(controller, bytes)), "hello\r\n");
  } finally {
    closeSync(controller);
    closeSync(terminal);
  }
});

test("children inherit neither end", () => {
  const { controller, terminal } = ptys.open();
  const flags = [controller, terminal].map((fd) => readFileSync(`/proc/self/fdinfo/${fd}`, "latin1"));
  closeSync(controller);
  closeSync(terminal);
  const closeOnExec = 0o2000000;
  for (const text of flags) assert.ok(parseInt(/flags:\s*(\d+)/.exec(text)?.[1] ?? "", 8) & closeOnExec);
});

test("the window has no size", () => {
  const { controller, terminal } = ptys.open();
  const { stdout } = spawnSync("stty", ["size"], { stdio: [terminal, "pipe", "inherit"], encoding: "utf8" });
  closeSync(controller);
  closeSync(terminal);
  assert.equal(stdout, "0 0\n");
});

test("when nobody has the terminal open any more, reading what is left ends with EIO", () => {
  const { controller, terminal } = ptys.open();
  writeSync(terminal, "last");
  closeSync(terminal);
  const bytes = Buffer.alloc(64);
  assert.equal(bytes.toString("latin1", 0, readSync(controller, bytes)), "last");
  assert.throws(() => readSync(controller, bytes), { code: "EIO" });
  closeSync(controller);
});

test("nothing stays open of a thousand of them", () => {
  const before = openDescriptors();
  for (let count = 0; count < 1_000; count += 1) {
    const { controller, terminal } = ptys.open();
    closeSync(controller);
    closeSync(terminal);
  }
  // What earlier tests have let go may be closed meanwhile.
  assert.ok(openDescriptors() <= before, `${openDescriptors()} are open, ${before} were`);
});

test("a terminal that the system refuses is an error with its number", () => {
  const module = new URL("../../../agent/sys/pty.ts", import.meta.url).href;
  const code = `
    import { loadPtys } from ${JSON.stringify(module)};
    const ptys = await loadPtys();
    const open = [];
    try { for (;;) open.push(ptys.open()); } catch (error) { console.log(error.code, error.syscall ?? ""); }`;
  const { stdout, stderr } = spawnSync(
    "sh",
    ["-c", 'ulimit -n 100; exec "$@"', "sh", process.execPath, "--import", "tsx", "--input-type=module", "-e", code],
    { encoding: "utf8", timeout: 60_000 },
  );
  assert.match(stdout, /^EMFILE (posix_openpt|open)\n$/, stderr);
});

test("what this process was given at its own start is kept from its children", () => {
  const module = new URL("../../../agent/sys/pty.ts", import.meta.url).href;
  const code = `
    import { spawnSync } from "node:child_process";
    import { loadPtys } from ${JSON.stringify(module)};
    const given = () => spawnSync("sh", ["-c", "test -e /proc/self/fd/200 && echo yes || echo no"], { encoding: "utf8" }).stdout;
    const before = given();
    (await loadPtys()).keepDescriptors();
    process.stdout.write(before + given());`;
  const { stdout, stderr } = spawnSync(
    "bash",
    [
      "-c",
      'exec 200</dev/null; exec "$@"',
      "sh",
      process.execPath,
      "--import",
      "tsx",
      "--input-type=module",
      "-e",
      code,
    ],
    { encoding: "utf8", timeout: 60_000 },
  );
  assert.equal(stdout, "yes\nno\n", stderr);
});
