import assert from "node:assert/strict";
import { rmSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test, type TestContext } from "node:test";
import ssh2 from "ssh2";
import type { AgentError } from "../../../../agent/driver/errors.ts";
import { createExporter } from "../../../../agent/session/exporter.ts";
import { keptHostKey, makeHostKey } from "../../../../net/ssh-mitm/host-key.ts";
import { expandHome } from "../../../../net/ssh/identity.ts";
import { sshWrapper } from "../../../../net/ssh/interface.ts";
import { parseKnownHosts, withPinnedKeys } from "../../../../net/ssh/known-hosts.ts";
import { tmt } from "../../../../net/tmt/interface.ts";
import { vnc } from "../../../../net/vnc/interface.ts";
import { scratch } from "../../../sim/agent.ts";

const tcp = { type: "jumpstarter_driver_network.driver.TcpNetwork", config: { host: "127.0.0.1", port: 22 } };
const types = {
  ssh: "jumpstarter_driver_ssh.driver.SSHWrapper",
  mitm: "jumpstarter_driver_ssh_mitm.driver.SSHMITM",
  mount: "jumpstarter_driver_ssh_mount.driver.SSHMount",
  vnc: "jumpstarter_driver_vnc.driver.Vnc",
  tmt: "jumpstarter_driver_tmt.driver.TMT",
};

const entry = (
  type: keyof typeof types,
  config: Record<string, unknown>,
  children: Record<string, unknown> = { tcp },
) => ({ type: types[type], config, children }) as never;

async function start(t: TestContext, drivers: Record<string, never>) {
  const exporter = await createExporter({ name: "test", export: drivers });
  t.after(() => exporter.close());
  const warnings: string[] = [];
  exporter.logs.subscribe(({ severity, message }) => void (severity === "WARNING" && warnings.push(message)));
  return { exporter, warnings };
}

const refused = (driver: never, text: string) =>
  assert.rejects(createExporter({ name: "test", export: { driver } }), (error: AgentError) => {
    assert.equal(error.code, "E_CONFIG");
    assert.ok(error.message.includes(text), error.message);
    return true;
  });

const times = (texts: readonly string[], words: string) => texts.join("\n").split(words).length - 1;

const ed25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";

test("wrong configurations are refused with the texts that are known", async () => {
  const both = { ssh_identity: "key", ssh_identity_file: "~/key" };
  await refused(entry("ssh", both), "Cannot specify both ssh_identity and ssh_identity_file");
  await refused(entry("mitm", both), "Cannot specify both ssh_identity and ssh_identity_file");
  await refused(entry("mitm", {}), "Either ssh_identity or ssh_identity_file must be provided");
  await refused(entry("ssh", {}, {}), "'tcp' child is required via ref, or directly as a TcpNetwork driver instance");
  await refused(entry("mitm", { ssh_identity: "k" }, {}), "'tcp' child is required");
  await refused(entry("mount", {}, {}), "'ssh' child is required via ref to an SSHWrapper driver instance");
  await refused(entry("vnc", {}, {}), "A tcp child is required for Vnc");
  await refused(entry("tmt", {}, {}), "'ssh' child is required");
  const known = { known_hosts: ed25519, known_hosts_file: "~/known" };
  await refused(entry("ssh", known), "Cannot specify both known_hosts and known_hosts_file");
  await refused(entry("ssh", { known_hosts: "board ssh-ed25519" }), "line 1 is not a host key");
  await refused(entry("mitm", { ssh_identity: "k", channel_timeout: 0 }), "must be more than 0");
});

describe("SSHWrapper", () => {
  test("tells what is configured, or what is usual", async (t) => {
    const { exporter, warnings } = await start(t, {
      plain: entry("ssh", {}),
      full: entry("ssh", { default_username: "root", ssh_command: "ssh -v", ssh_identity: "-----END X-----" }),
    });
    const [plain, full] = [exporter.calls("plain", sshWrapper), exporter.calls("full", sshWrapper)];
    assert.equal(await plain.get_default_username(), "");
    assert.match(await plain.get_ssh_command(), /^ssh -o StrictHostKeyChecking=no -o UserKnownHostsFile=\/dev\/null /);
    assert.equal(await plain.get_ssh_identity(), null);
    assert.deepEqual(warnings, []);
    assert.equal(await full.get_default_username(), "root");
    assert.equal(await full.get_ssh_command(), "ssh -v");
    // OpenSSH takes no key whose last line has no end.
    assert.equal(await full.get_ssh_identity(), "-----END X-----\n");
    await full.get_ssh_identity();
    assert.equal(times(warnings, "leaves the exporter"), 1);
    await exporter.tree.reset();
    await full.get_ssh_identity();
    assert.equal(times(warnings, "leaves the exporter"), 2);
  });

  test("a key file is read when it is wanted, then kept; a failure is not", async (t) => {
    const folder = scratch(t);
    const file = join(folder, "key");
    const home = process.env["HOME"];
    process.env["HOME"] = folder;
    t.after(() => {
      process.env["HOME"] = home;
    });
    const { exporter } = await start(t, { ssh: entry("ssh", { ssh_identity_file: "~/key" }) });
    const calls = exporter.calls("ssh", sshWrapper);
    await assert.rejects(calls.get_ssh_identity(), (error: AgentError) => {
      assert.equal(error.code, "E_FAILED");
      assert.match(error.message, /^Failed to read ssh_identity_file '~\/key': /);
      return true;
    });
    writeFileSync(file, "the key\n");
    assert.equal(await calls.get_ssh_identity(), "the key\n");
    rmSync(file);
    assert.equal(await calls.get_ssh_identity(), "the key\n");
    assert.equal(expandHome("~"), folder);
    assert.equal(expandHome("~other/key"), "~other/key");
  });

  test("host keys go to the client in the command, before what is configured", async (t) => {
    const file = join(scratch(t), "known");
    const { exporter } = await start(t, {
      text: entry("ssh", { known_hosts: ed25519 }),
      file: entry("ssh", { known_hosts_file: file }),
    });
    const command = await exporter.calls("text", sshWrapper).get_ssh_command();
    assert.ok(command.startsWith("ssh -o StrictHostKeyChecking=yes "), command);
    assert.ok(command.includes(`'KnownHostsCommand=/bin/sh -c "set -f; echo %H ${ed25519}"'`), command);
    assert.ok(command.endsWith(" -o LogLevel=ERROR"), command);
    const calls = exporter.calls("file", sshWrapper);
    await assert.rejects(calls.get_ssh_command(), /Failed to read known_hosts_file/);
    writeFileSync(file, "");
    await assert.rejects(calls.get_ssh_command(), /there is no host key in it/);
    // A board that was flashed has new keys: the file is read anew.
    writeFileSync(file, `${ed25519} comment`);
    assert.equal(await calls.get_ssh_command(), command);
  });
});

test("every host key that is made can be used", () => {
  // ssh2 alone makes one in 256 that it cannot read itself.
  for (let made = 0; made < 2_000; made += 1) {
    assert.ok(!(ssh2.utils.parseKey(makeHostKey()) instanceof Error), `after ${made} good ones`);
  }
});

test("known hosts: lines with and without names, comments, and lines that are none", () => {
  const key = { type: "ssh-ed25519", base64: ed25519.split(" ")[1] };
  assert.deepEqual(parseKnownHosts(`# comment\n\n[board]:22,10.0.0.1 ${ed25519} root@board\r\n${ed25519}\n`), [
    key,
    key,
  ]);
  const wrong = [
    "",
    "# nothing",
    "board",
    "board ssh-ed25519",
    `@revoked board ${ed25519}`,
    `a b ${ed25519}`,
    ed25519.replace("ssh-ed25519", "ssh-rsa"),
    `${ed25519}"; echo`,
    "ssh-ed25519 AAAA",
  ];
  for (const text of wrong) assert.throws(() => parseKnownHosts(text), Error, text);
  assert.match(withPinnedKeys("/opt/my/ssh -p 1", parseKnownHosts(ed25519)), /^\/opt\/my\/ssh -o .* -p 1$/);
});

describe("the host key of an exporter", () => {
  const key = (directory: string, warnings: string[] = []) =>
    keptHostKey(directory, "rack/board 1", { warn: (text: string) => warnings.push(text) } as never);

  test("is kept, for its user only, also when several processes make it at once", async (t) => {
    const directory = join(scratch(t), "keys");
    const made = await Promise.all([key(directory), key(directory), key(directory)]);
    assert.equal(new Set(made).size, 1);
    assert.equal(await key(directory), made[0]);
    assert.deepEqual(readdirSync(directory), ["rack%2Fboard%201"]);
    assert.equal(statSync(join(directory, "rack%2Fboard%201")).mode & 0o777, 0o600);
    assert.equal(statSync(directory).mode & 0o777, 0o700);
    assert.ok(!(ssh2.utils.parseKey(made[0] ?? "") instanceof Error));
  });

  test("is another one each time where it cannot be kept, and the log says so; a damaged one stays", async (t) => {
    const folder = scratch(t);
    writeFileSync(join(folder, "file"), "");
    const warnings: string[] = [];
    const [one, two] = [await key(join(folder, "file"), warnings), await key(join(folder, "file"), warnings)];
    assert.notEqual(one, two);
    assert.equal(warnings.length, 2);
    writeFileSync(join(folder, "rack%2Fboard%201"), "damaged");
    await key(folder, warnings);
    assert.match(warnings[2] ?? "", /is not a private key/);
    assert.equal(statSync(join(folder, "rack%2Fboard%201")).size, 7);
  });
});

test("Vnc and TMT tell what is configured", async (t) => {
  const { exporter } = await start(t, {
    screen: entry("vnc", { default_encrypt: "true" }),
    plain: entry("vnc", {}),
    tmt: entry("tmt", { reboot_cmd: "reboot", default_username: "u", default_password: "p" }, { ssh: tcp }),
    bare: entry("tmt", {}, { ssh: tcp }),
  });
  assert.equal(await exporter.calls("screen", vnc).get_default_encrypt(), true);
  assert.equal(await exporter.calls("plain", vnc).get_default_encrypt(), false);
  assert.equal(await exporter.calls("tmt", tmt).get_reboot_cmd(), "reboot");
  assert.deepEqual(await exporter.calls("tmt", tmt).get_default_user_pass(), ["u", "p"]);
  assert.deepEqual(await exporter.calls("bare", tmt).get_default_user_pass(), ["", ""]);
});
