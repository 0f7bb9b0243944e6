/** The Debian package on fresh Debians: installed by apt alone, used, upgraded, removed, purged. */
import assert from "node:assert/strict";
import { copyFileSync, existsSync, lstatSync, readFileSync, writeFileSync } from "node:fs";
import { availableParallelism, loadavg } from "node:os";
import { basename, join } from "node:path";
import { test } from "node:test";
import { power } from "../../boards/power/interface.ts";
import { connect } from "../../agent/client/connect.ts";
import { freePort, scratch } from "../sim/agent.ts";
import { debianChroot, noChroot, type DebianChroot } from "../sim/debian-chroot.ts";
import { eventually } from "../sim/rig.ts";
import { buildPackage } from "./packages.ts";

/** Of a machine that does nothing else. */
const installLimitMs = 120_000;
/** What tmpfiles.d makes outside our own folders. */
const shared = ["/srv/tftp", "/var/www", "/var/www/html", "/var/lib/tftpboot"];

test("the package on fresh Debians", { skip: noChroot, timeout: 1_200_000 }, async (suite) => {
  const folder = scratch(suite);
  const now = await buildPackage(folder, "amd64", "1.0");
  const next = await buildPackage(folder, "amd64", "1.1");
  for (const release of ["bookworm", "trixie"] as const) {
    await suite.test(`${release}, from apt-get install to purge`, async (t) => {
      const debian = await debianChroot(t, release);
      await debian.run("apt-get", "update", "-q");
      const fresh = new Set(debian.files());

      const began = performance.now();
      await install(debian, now);
      const tookMs = performance.now() - began;
      t.diagnostic(`${basename(now)}: installed in ${Math.round(tookMs / 1000)} s`);
      // Other suites take their share of the processors; more than two of them do not run at once.
      const others = Math.min(3, Math.max(1, loadavg()[0]! / availableParallelism()));
      assert.ok(tookMs < installLimitMs * others, `it took ${tookMs} ms`);
      for (const program of ["cc", "gcc", "make", "npm", "node"]) {
        await assert.rejects(debian.run("sh", "-c", `command -v ${program}`), program);
      }
      assert.equal(await debian.run("jmp-agent", "--version"), `${version()}\n`);
      const config = "/etc/jumpstarter/exporters/mock.yaml";
      copyFileSync("examples/mock.yaml", join(debian.root, config));
      assert.match(await debian.run("jmp-agent", "check", config), /mock\.yaml: ok/);
      // koffi's native part is loaded by whoever makes a system call of its own.
      await debian.run("jmp-agent", "suggest");
      assert.ok(lstatSync(join(debian.root, "etc/systemd/system/multi-user.target.wants/jumpstarter-agent.service")));

      await serveMock(debian);

      const state = "/var/lib/jumpstarter-agent/remembered";
      writeFileSync(join(debian.root, state), "what a flash was");
      await install(debian, next);
      assert.match(await debian.run("dpkg-query", "--show", "jumpstarter-agent"), /1\.1/);
      assert.equal(readFileSync(join(debian.root, config), "utf8"), readFileSync("examples/mock.yaml", "utf8"));
      assert.equal(readFileSync(join(debian.root, state), "utf8"), "what a flash was");
      assert.equal(await debian.run("jmp-agent", "--version"), `${version()}\n`);

      await debian.run("apt-get", "remove", "-y", "jumpstarter-agent");
      assert.ok(!existsSync(join(debian.root, "/usr/bin/jmp-agent")));
      assert.ok(!existsSync(join(debian.root, "/usr/lib/jumpstarter-agent")));
      assert.ok(existsSync(join(debian.root, config)), "a configuration outlives the package");
      assert.ok(existsSync(join(debian.root, state)), "state outlives the package");

      await install(debian, next);
      await debian.run("rm", config);
      await debian.run("apt-get", "purge", "-y", "jumpstarter-agent");
      const listed = (await debian.run("sh", "-c", "cat /var/lib/dpkg/info/*.list")).split("\n");
      // Packages of Debian 12 still name /bin and /lib, which are links.
      const owned = new Set(listed.flatMap((path) => [path, `/usr${path}`]));
      const left = debian.files().filter((path) => !fresh.has(path) && !owned.has(path));
      const ours = left.filter((path) => /jumpstarter|jmp/.test(path) || shared.includes(path));
      // The downloaded package, which the test put there itself.
      assert.deepEqual(ours, ["/root/jumpstarter-agent_1.0_amd64.deb", "/root/jumpstarter-agent_1.1_amd64.deb"]);
      // Its dependencies and its users have come: everything else is as it was.
      assert.deepEqual(
        left.filter((path) => !/^\/(etc|var|root|usr\/(lib|local|share))\//.test(path)),
        [],
      );

      await install(debian, now);
      assert.equal(await debian.run("jmp-agent", "--version"), `${version()}\n`);
    });
  }
});

async function install(debian: DebianChroot, path: string): Promise<void> {
  copyFileSync(path, join(debian.root, "root", basename(path)));
  await debian.run("apt-get", "install", "-y", `/root/${basename(path)}`);
}

/** As the service would: its user, its folders. A client from outside, and the package's own `j`, call it. */
async function serveMock(debian: DebianChroot): Promise<void> {
  const port = await freePort();
  const folders = ["/run/jumpstarter-agent", "/var/lib/jumpstarter-agent"] as const;
  await debian.run("install", "-d", "-o", "jumpstarter", ...folders);
  const agent = debian.spawn([
    ...(["setpriv", "--reuid=jumpstarter", "--regid=jumpstarter", "--init-groups"] as const),
    ...["env", "STATE_DIRECTORY=/var/lib/jumpstarter-agent", "RUNTIME_DIRECTORY=/run/jumpstarter-agent"],
    ...["jmp-agent", "run", "--exporter", "mock", "--unix", "/run/jumpstarter-agent/mock.sock"],
    ...["--tls-grpc-listener", `127.0.0.1:${port}`, "--tls-grpc-insecure"],
  ]);
  let printed = "";
  agent.stdout?.on("data", (chunk: Buffer) => (printed += chunk.toString()));
  agent.stderr?.on("data", (chunk: Buffer) => (printed += chunk.toString()));
  await eventually("the agent is ready", () => /is ready/.test(printed), 30_000).catch((error: unknown) => {
    throw new Error(printed, { cause: error });
  });
  const client = await connect({ host: `127.0.0.1:${port}`, insecure: true });
  try {
    await client.find("power")?.as(power).on();
  } finally {
    await client.close();
  }
  const j = ["env", "JUMPSTARTER_HOST=/run/jumpstarter-agent/mock.sock", "j", "power", "off"] as const;
  await debian.run(...j);
  agent.kill("SIGKILL");
}

function version(): string {
  return (JSON.parse(readFileSync("package.json", "utf8")) as { version: string }).version;
}
