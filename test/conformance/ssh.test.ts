// The real Python clients reach a board over SSH, a bus and a screen: real sshd, dbus-daemon and QEMU's VNC server.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { accessSync, chmodSync, copyFileSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test, type TestContext } from "node:test";
import { missingPrograms } from "../../scripts/programs.mjs";
import { scratch, startAgent } from "../sim/agent.ts";
import { clientEnv, clientProgram, missingClient, run } from "../sim/python-client.ts";
import { eventually } from "../sim/rig.ts";
import { makeKey, noSshd, startSshd } from "../sim/sshd.ts";

/** The release whose clients are installed with these drivers. */
const version = "0.9.0";

const lacking = (...programs: string[]): string | false => {
  const missing = (missingPrograms as (programs: string[]) => string[])(programs);
  return missing.length > 0 && `${missing.join(", ")} not installed`;
};
const noBuses = lacking("dbus-daemon", "busctl", "dbus-send");
const noScreen = lacking("qemu-system-x86_64");

/** Whether sshfs can mount here: in many containers it cannot. */
function mounts(): boolean {
  try {
    accessSync("/dev/fuse", 6);
    return lacking("sshfs", "fusermount3") === false;
  } catch {
    return false;
  }
}

/** @returns address and id of a bus */
async function startBus(t: TestContext, address: string): Promise<{ address: string; id: string }> {
  const child = spawn("dbus-daemon", [
    "--session",
    "--nofork",
    "--nopidfile",
    "--print-address",
    `--address=${address}`,
  ]);
  t.after(() => child.kill("SIGKILL"));
  const [line] = (await once(child.stdout, "data")) as [Buffer];
  const listens = line.toString().trim();
  const bus = ["--dest=org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus.GetId"];
  const { stdout } = await run("dbus-send", [`--bus=${listens}`, "--print-reply=literal", ...bus]);
  return { address: listens, id: stdout.trim() };
}

/** QEMU without a machine still has a screen to show. */
async function startScreen(t: TestContext, path: string): Promise<void> {
  const words = ["-machine", "none", "-nodefaults", "-vnc", `unix:${path}`];
  const child = spawn("qemu-system-x86_64", [...words, "-monitor", "none", "-serial", "none"], { stdio: "ignore" });
  t.after(() => child.kill("SIGKILL"));
  await eventually("a VNC server", () => existsSync(path));
}

const tcp = (port: number, config: Record<string, unknown> = {}) => ({
  type: "jumpstarter_driver_network.driver.TcpNetwork",
  config: { host: "127.0.0.1", port, ...config },
});

describe(`Python client ${version}`, { skip: missingClient(version) || noSshd || noBuses || noScreen }, () => {
  test("SSH with and without the key, a mount, buses, a screen, tmt", async (t) => {
    const folder = scratch(t);
    const sshd = await startSshd(t);
    copyFileSync(sshd.keyPath, join(folder, "id_of_board"));
    const stranger = readFileSync(`${makeKey(folder, "stranger", "ed25519")}.pub`, "utf8");
    const sessionBus = await startBus(t, `unix:path=${folder}/a bus`.replaceAll(" ", "%20"));
    const systemBus = await startBus(t, `unix:abstract=jmp-test-${process.pid}`);
    const screen = join(folder, "screen");
    await startScreen(t, screen);

    const ssh = (config: Record<string, unknown>, child: unknown = { ref: "board" }) => ({
      type: "jumpstarter_driver_ssh.driver.SSHWrapper",
      config,
      children: { tcp: child },
    });
    const login = { default_username: sshd.user, ssh_identity_file: "~/id_of_board" };
    const agent = await startAgent(
      t,
      {
        board: tcp(sshd.port),
        ssh: ssh(login),
        inline: ssh({ ssh_identity: sshd.key }),
        hidden: ssh(login, tcp(sshd.port, { enable_address: false })),
        pinned: ssh({ ...login, known_hosts: sshd.hostKeys.ed25519 }),
        wrong: ssh({ ...login, known_hosts: stranger }),
        keyless: ssh({}),
        missing: ssh({ ssh_identity_file: "~/nowhere" }),
        mitm: {
          type: "jumpstarter_driver_ssh_mitm.driver.SSHMITM",
          config: { ssh_identity_file: "~/id_of_board", known_hosts: sshd.hostKeys.ed25519 },
          children: { tcp: { ref: "board" } },
        },
        guarded: ssh({ default_username: sshd.user }, { ref: "mitm" }),
        mount: {
          type: "jumpstarter_driver_ssh_mount.driver.SSHMount",
          config: {},
          children: { ssh: { ref: "guarded" } },
        },
        session_bus: { type: "jumpstarter_driver_network.driver.DbusNetwork", config: { kind: "session" } },
        system_bus: { type: "jumpstarter_driver_network.driver.DbusNetwork", config: { kind: "system" } },
        screen: {
          type: "jumpstarter_driver_vnc.driver.Vnc",
          config: { default_encrypt: true },
          children: { tcp: { type: "jumpstarter_driver_network.driver.UnixNetwork", config: { path: screen } } },
        },
        tmt: {
          type: "jumpstarter_driver_tmt.driver.TMT",
          config: { reboot_cmd: "reboot -f", default_username: "tester", default_password: "word" },
          children: { ssh: { ref: "board" } },
        },
      },
      {
        env: {
          HOME: folder,
          STATE_DIRECTORY: join(folder, "state"),
          // The first two lead nowhere.
          DBUS_SESSION_BUS_ADDRESS: `launchd:env=X;unix:path=${folder}/nowhere;${sessionBus.address}`,
          DBUS_SYSTEM_BUS_ADDRESS: systemBus.address,
        },
      },
    );

    // Stands in for tmt: tells its words.
    const tmt = join(folder, "tmt");
    writeFileSync(tmt, `#!/bin/sh\necho "$*" >> ${folder}/tmt.words\nexit 9\n`);
    chmodSync(tmt, 0o755);

    const fuse = mounts();
    if (!fuse) t.diagnostic("no FUSE here: sshfs is not run, only what it would speak");
    const files = fuse ? "mount" : "sftp";
    const sections = [`wrapper,${sshd.keyPath}`, `mitm,${folder}`, `${files},${folder}`, "dbus", "vnc", `tmt,${tmt}`];
    const words = ["test/conformance/drive_ssh.py", ...sections];
    const env = {
      ...clientEnv(agent.socketPath),
      JMP_TEST_SESSION_BUS: sessionBus.id,
      JMP_TEST_SYSTEM_BUS: systemBus.id,
    };
    const { code, stdout, stderr } = await run(clientProgram(version, "python"), words, { env });
    assert.equal(code, 0, `${stdout}\n${stderr}\nagent:\n${agent.output()}\nsshd:\n${sshd.log()}`);
    t.diagnostic(stdout.replaceAll("\n", ", "));

    const [direct, forwarded] = readFileSync(`${folder}/tmt.words`, "utf8").trim().split("\n");
    assert.equal(
      direct,
      `run provision -h connect -g 127.0.0.1 -P ${sshd.port} -u tester -p word --feeling-safe --hard-reboot reboot -f report`,
    );
    assert.match(forwarded ?? "", /^run provision -h connect -g 127\.0\.0\.1 -P \d+ -u other -p word /);

    // Python's `j`, with the exit code of the command on the board.
    const j = await run(clientProgram(version, "j"), ["guarded", "echo from the board; exit 3"], { env });
    assert.deepEqual([j.code, j.stdout], [3, "from the board\n"], j.stderr);

    // The key has left the exporter where that was asked for, and the log says so; it shows nothing of it.
    assert.match(agent.output(), /private key leaves the exporter/);
    const secret = sshd.key.split("\n")[2] ?? "";
    assert.ok(secret.length > 20 && !agent.output().includes(secret));
    assert.doesNotMatch(agent.output(), /Warning|Unhandled/);
  });
});
