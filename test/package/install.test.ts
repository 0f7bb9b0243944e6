/** `jmp-agent install` and `uninstall` on a system whose packages know nothing of it. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { copyFileSync, existsSync, lstatSync, readFileSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { scratch } from "../sim/agent.ts";
import { debianChroot, noChroot } from "../sim/debian-chroot.ts";

async function agent(...words: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  return await promisify(execFile)(process.execPath, ["dist/jmp-agent.js", ...words]).then(
    (said) => ({ code: 0, ...said }),
    (error: { code: number; stdout: string; stderr: string }) => error,
  );
}

test("a system without systemd is refused, and nothing is written", async (t) => {
  const root = scratch(t);
  for (const command of ["install", "uninstall"]) {
    const { code, stderr } = await agent(command, "--root", root);
    assert.equal(code, 1);
    assert.match(stderr, /there is no systemd in .*\nHint: .*jmp-agent run --all/s);
  }
  assert.deepEqual(readdirSync(root), []);
  assert.equal((await agent("install", "--root", root, "--prefix", "/opt")).code, 2);
});

test("installed into an image, again, and removed", { skip: noChroot, timeout: 600_000 }, async (t) => {
  const debian = await debianChroot(t, "trixie", { include: ["systemd-sysv", "dbus", "udev"] });
  const { root } = debian;
  const fresh = debian.files();
  const at = (path: string) => join(root, path);
  const packages = readFileSync(at("/var/lib/dpkg/status"));

  const dry = await agent("install", "--root", root, "--dry-run");
  assert.equal(dry.code, 0, dry.stderr);
  assert.deepEqual(debian.files(), fresh, "a dry run writes nothing");
  const steps = dry.stdout.trimEnd().split("\n");
  assert.ok(steps.includes(`run systemctl --root=${root} enable jumpstarter-agent.service`), dry.stdout);

  const installed = await agent("install", "--root", root);
  assert.equal(installed.code, 0, installed.stderr);
  assert.deepEqual(installed.stdout, dry.stdout, "it does what it told");
  for (const line of steps.filter((step) => step.startsWith("write "))) assert.ok(existsSync(line.slice(6)), line);
  assert.match(readFileSync(at("/etc/passwd"), "utf8"), /^jumpstarter:/m);
  assert.ok(lstatSync(at("/etc/systemd/system/multi-user.target.wants/jumpstarter-agent.service")).isSymbolicLink());
  assert.equal(statSync(at("/etc/jumpstarter/exporters")).mode & 0o777, 0o750);
  const unit = readFileSync(at("/usr/local/lib/systemd/system/jumpstarter-agent.service"), "utf8");
  assert.match(unit, /^ExecStart=\/usr\/local\/bin\/jmp-agent run /m);
  await debian.run("systemd-analyze", "verify", "--man=no", "jumpstarter-agent.service");
  copyFileSync("examples/mock.yaml", at("/etc/jumpstarter/exporters/mock.yaml"));
  // The image has no Node: this one came along, and koffi with it.
  assert.match(await debian.run("jmp-agent", "check", "/etc/jumpstarter/exporters/mock.yaml"), /ok/);
  assert.doesNotMatch(await debian.run("jmp-agent", "suggest"), /koffi/);
  assert.deepEqual(readFileSync(at("/var/lib/dpkg/status")), packages);

  const first = debian.files();
  // What the old program had, and an agent that still runs may load; the new one has it no more.
  const record = at("/usr/local/lib/jumpstarter-agent/installed.json");
  const { chunks, ...rest } = JSON.parse(readFileSync(record, "utf8")) as { chunks: string[] };
  const folder = at("/usr/local/lib/jumpstarter-agent/dist/chunks");
  writeFileSync(join(folder, "old-ABCDEFGH.js"), "export {};");
  writeFileSync(record, JSON.stringify({ ...rest, chunks: [...chunks, "old-ABCDEFGH.js"] }));
  const again = await agent("install", "--root", root);
  assert.equal(again.code, 0, again.stderr);
  const old = "/usr/local/lib/jumpstarter-agent/dist/chunks/old-ABCDEFGH.js";
  assert.deepEqual(debian.files(), [...first, old].sort());
  assert.equal((await agent("install", "--root", root)).code, 0);
  assert.deepEqual(debian.files(), first, "the next upgrade has no use for it");

  const removed = await agent("uninstall", "--root", root, "--purge");
  assert.equal(removed.code, 0, removed.stderr);
  const left = debian.files().filter((path) => !fresh.includes(path));
  const kept = /^\/(etc\/(jumpstarter|.*-)|srv\/tftp|var\/(www|lib\/tftpboot))|^\/etc\/\.pwd\.lock$/;
  assert.deepEqual(
    left.filter((path) => !kept.test(path)),
    [],
  );
  assert.ok(existsSync(at("/etc/jumpstarter/exporters/mock.yaml")));
  const none = await agent("uninstall", "--root", root);
  assert.match(none.stderr, /nothing is installed in /);
  assert.equal(none.code, 1);
});

test("what a package has installed is left to it", { skip: noChroot }, async (t) => {
  const root = scratch(t);
  for (const path of ["usr/lib/systemd/systemd", "usr/lib/jumpstarter-agent/dist/jmp-agent.js"]) {
    await promisify(execFile)("install", ["-D", "/dev/null", join(root, path)]);
  }
  const beside = await agent("install", "--root", root);
  assert.match(beside.stderr, /the package is installed there already/);
  const over = await agent("install", "--root", root, "--prefix", "/usr");
  assert.match(over.stderr, /was not made by 'jmp-agent install'/);
  assert.deepEqual([beside.code, over.code], [2, 1]);
});
