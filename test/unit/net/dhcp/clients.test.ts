import assert from "node:assert/strict";
import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { chmodSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { until } from "../../../sim/tftp.ts";
import { scratch } from "../../../sim/agent.ts";
import { startDhcp, startLan, withLan } from "../../../sim/lan.ts";
import type { NetworkNamespace } from "../../../sim/network-namespace.ts";

const mac = "02:00:00:00:00:0a";

async function said(child: ChildProcess): Promise<string> {
  let text = "";
  child.stdout?.on("data", (chunk: Buffer) => (text += chunk.toString()));
  child.stderr?.on("data", (chunk: Buffer) => (text += chunk.toString()));
  await once(child, "close");
  return text;
}

/** Its script puts the address on the interface, and tells what else the client was told. */
function udhcpcWords(t: TestContext): string[] {
  const script = join(scratch(t), "script");
  const deconfig = "ip address flush dev eth0";
  const bound = "ip address add $ip/24 dev eth0; env";
  writeFileSync(script, `#!/bin/sh\ncase $1 in deconfig) ${deconfig};; bound) ${bound};; esac\n`);
  chmodSync(script, 0o755);
  return ["udhcpc", "-i", "eth0", "-f", "-n", "-t", "2", "-T", "1", "-s", script];
}

/** What busybox udhcpc was told. Empty: no lease. */
async function udhcpc(t: TestContext, machine: NetworkNamespace, ...more: string[]): Promise<Record<string, string>> {
  const text = await said(machine.spawn("busybox", [...udhcpcWords(t), "-q", ...more]));
  return Object.fromEntries([...text.matchAll(/^(\w+)=(.*)$/gm)].map(([, name = "", value = ""]) => [name, value]));
}

/** ISC dhclient, which keeps what it knows over restarts, as on a board with a disk. Its script puts the address on the interface. */
function dhclientOn(t: TestContext, machine: NetworkNamespace) {
  const directory = scratch(t);
  const script = join(directory, "script");
  const lines = [
    "#!/bin/sh",
    'echo "reason=$reason ip=$new_ip_address"',
    'if [ -n "$new_ip_address" ]; then ip address replace "$new_ip_address/24" dev eth0; fi',
    'if [ "$reason" = RELEASE ]; then ip address flush dev eth0; fi',
  ];
  writeFileSync(script, `${lines.join("\n")}\n`);
  chmodSync(script, 0o755);
  writeFileSync(join(directory, "leases"), "");
  const files = ["-lf", join(directory, "leases"), "-pf", join(directory, "pid"), "-cf", "/dev/null", "-sf", script];
  /** Runs it until it prints this, or to its end. @returns what it was told */
  return async (words: string[], until?: RegExp) => {
    const child = machine.spawn("dhclient", ["-d", ...files, ...words, "eth0"], { stdio: ["ignore", "pipe", "pipe"] });
    let text = "";
    const ended = said(child);
    child.stdout?.on("data", (chunk: Buffer) => {
      text += chunk.toString();
      if (until?.test(text)) child.kill("SIGKILL");
    });
    await ended;
    return [...text.matchAll(/^reason=.*/gm)].map(([line]) => line.trimEnd());
  };
}

test("busybox udhcpc gets an address and what else was configured", withLan, async (t) => {
  const lan = await startLan(t);
  const machine = await lan.plugIn(mac);
  await startDhcp(t, lan.host, {
    router: "10.77.0.1",
    dns: ["10.77.0.1", "10.77.0.2"],
    domain: "lab.test",
    reservations: { "02-00-00-00-00-0A": { address: "10.77.0.99", hostName: "board-a" } },
    boot: { file: "kernel.img" },
  });
  const lease = await udhcpc(t, machine, "-O", "tftp");
  const { ip, subnet, router, dns, domain, hostname, serverid, siaddr, boot_file } = lease;
  assert.deepEqual(
    { ip, subnet, router, dns, domain, hostname, serverid, siaddr, boot_file },
    {
      ip: "10.77.0.99",
      subnet: "255.255.255.0",
      router: "10.77.0.1",
      dns: "10.77.0.1 10.77.0.2",
      domain: "lab.test",
      hostname: "board-a",
      serverid: "10.77.0.1",
      siaddr: "10.77.0.1",
      boot_file: "kernel.img",
    },
  );
});

test(
  "udhcpc releases its lease when it goes, and gets the same address again, also after the server was killed",
  withLan,
  async (t) => {
    const lan = await startLan(t);
    const machine = await lan.plugIn(mac);
    const other = await lan.plugIn("02:00:00:00:00:0b");
    const leaseFile = join(scratch(t), "state", "leases.json");
    const first = await startDhcp(t, lan.host, { leaseFile });
    const lease = await udhcpc(t, machine);
    await machine.run("ip", ["address", "flush", "dev", "eth0"]);
    const going = machine.spawn("busybox", [...udhcpcWords(t), "-R"], { stdio: ["ignore", "ignore", "pipe"] });
    let progress = "";
    going.stderr?.on("data", (chunk: Buffer) => (progress += chunk.toString()));
    await until(() => progress.includes("lease of 10.77.0.2 obtained"));
    await sleep(100); // its script
    going.kill("SIGTERM");
    await first.saysSoon(/released 10.77.0.2/);
    assert.equal((await udhcpc(t, other, "-x", "hostname:other")).ip, "10.77.0.3");
    const leases = JSON.parse(await first.ask("leases")) as { state: string; hostName?: string }[];
    assert.deepEqual(
      leases.map(({ state, hostName }) => ({ state, hostName })),
      [
        { state: "released", hostName: undefined },
        { state: "bound", hostName: "other" },
      ],
    );
    await first.stop("SIGKILL");
    await startDhcp(t, lan.host, { leaseFile });
    assert.equal((await udhcpc(t, other)).ip, "10.77.0.3");
    assert.equal((await udhcpc(t, machine)).ip, lease.ip);
  },
);

test("dhclient binds, renews, comes back after a reboot, and releases", withLan, async (t) => {
  const lan = await startLan(t);
  const machine = await lan.plugIn(mac);
  const server = await startDhcp(t, lan.host, { leaseSeconds: 10 });
  const dhclient = dhclientOn(t, machine);
  const bound = "ip=10.77.0.2";
  const told = await dhclient([], /RENEW/);
  assert.deepEqual(told.slice(-2), [`reason=BOUND ${bound}`, `reason=RENEW ${bound}`]);
  await machine.run("ip", ["address", "flush", "dev", "eth0"]);
  assert.equal((await dhclient([], /REBOOT|BOUND/)).at(-1), `reason=REBOOT ${bound}`);
  await dhclient(["-r"]);
  await server.saysSoon(/released 10.77.0.2/);
});
