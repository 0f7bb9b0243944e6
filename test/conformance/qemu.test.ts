// The real Python clients drive virtual machines: QEMU, emulated, with U-Boot and Linux in it.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { freePort, scratch, startAgent, type AgentProcess } from "../sim/agent.ts";
import { clientEnv, clientProgram, missingClient, run } from "../sim/python-client.ts";
import { noQemu, qemuEntry, uboot, withUboot } from "../sim/qemu.ts";

const version = "0.9.0";
const old = "0.8.1";

async function drive(agent: AgentProcess, release: string, ...words: string[]): Promise<void> {
  const command = ["test/conformance/drive_qemu.py", words.join()];
  const env = clientEnv(agent.socketPath);
  const { code, stdout, stderr } = await run(clientProgram(release, "python"), command, { env, timeoutMs: 170_000 });
  assert.equal(code, 0, `${stdout}\n${stderr}\nagent:\n${agent.output()}`);
  assert.match(stdout, new RegExp(`passed ${words[0]}`));
}

describe(`Python client ${version}`, { skip: missingClient(version) || noQemu([uboot]) }, () => {
  test("firmware that is flashed, its console and its screen", async (t) => {
    const web = { hostport: await freePort(), guestport: 80 };
    const agent = await startAgent(t, { qemu: qemuEntry({ password: "s3cret word", hostfwd: { web } }) });
    await drive(agent, version, "firmware", uboot);
    assert.ok(!agent.output().includes("s3cret"));

    // Both `j` say the same to the same words.
    const env = clientEnv(agent.socketPath);
    const words = ["qemu", "resize", "memory", "256M"];
    const theirs = await run(clientProgram(version, "j"), words, { env });
    const ours = await run(process.execPath, ["dist/j.js", ...words], { env });
    assert.equal(theirs.stdout, "Memory will be set to 256M on next power on\n", theirs.stderr);
    assert.deepEqual([ours.code, ours.stdout], [0, theirs.stdout], ours.stderr);
    const wrong = await run(process.execPath, ["dist/j.js", "qemu", "resize", "disk", "G"], { env });
    assert.deepEqual([wrong.code, wrong.stdout], [1, ""]);
    assert.match(wrong.stderr, /Invalid size: 'G'/);
  });

  test("a system that boots from a flashed disk, and a port of it", async (t) => {
    const image = join(scratch(t), "boot.img");
    execFileSync(process.execPath, ["scripts/bundle/disk.mjs", image], { stdio: ["ignore", "ignore", "inherit"] });
    const web = { hostport: await freePort(), guestport: 80 };
    const agent = await startAgent(t, { qemu: qemuEntry({ ...withUboot, hostfwd: { web } }) });
    await drive(agent, version, "system", image);
  });

  test("images from a registry, by a double of fls", async (t) => {
    const folder = scratch(t);
    const log = join(folder, "log");
    writeFileSync(join(folder, "fls"), flsDouble(log), { mode: 0o755 });
    const env = { PATH: `${folder}:${process.env["PATH"]}`, OCI_USERNAME: "envuser", OCI_PASSWORD: "envpass" };
    const agent = await startAgent(
      t,
      { qemu: qemuEntry({ flash_timeout: 2, oci_registry: "registry.test" }) },
      { env },
    );
    await drive(agent, version, "oci", log);
    assert.doesNotMatch(agent.output(), /envpass|s3cret/);
  });
});

test(
  `Python client ${old} knows the flasher under its old label`,
  { skip: missingClient(old) || noQemu() },
  async (t) => {
    const image = join(scratch(t), "image");
    writeFileSync(image, "an image of old times");
    const agent = await startAgent(t, { qemu: qemuEntry({ legacy_flasher_client: true }) });
    await drive(agent, old, "old", image);
  },
);

/** Notes `WORDS|FILE|USER:PASSWORD` in a line of `log`. */
function flsDouble(log: string): string {
  return [
    "#!/bin/sh",
    `echo "$1 $2|$3|$FLS_REGISTRY_USERNAME:$FLS_REGISTRY_PASSWORD" >> '${log}'`,
    'echo fetching; echo "half way" >&2',
    'case "$2" in *fails) echo half > "$3"; exit 3 ;; *hangs) echo half > "$3"; sleep 60 ;; esac',
    'echo "from $2" > "$3"',
    "",
  ].join("\n");
}
