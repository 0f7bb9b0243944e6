import assert from "node:assert/strict";
import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { chmodSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { scratch } from "../../../sim/agent.ts";
import { startDhcp, startLan } from "../../../sim/lan.ts";
import type { NetworkNamespace } from "../../../sim/network-namespace.ts";

const mac = "02:00:00:00:00:0a";

async function said(child: ChildProcess): Promise<string> {
  let text = "";
  child.stdout?.on("data", (chunk: Buffer) => (text += chunk.toString()));
  child.stderr?.on("data", (chunk: Buffer) => (text += chunk.toString()));
  await once(child, "close");
  return text;
}

/** What busybox udhcpc was told, from the environment of its script. Empty: no lease. */
async function udhcpc(t: TestContext, machine: NetworkNamespace, ...more: string[]): Promise<Record<string, string>> {
  const script = join(scratch(t), "script");
  writeFileSync(script, "#!/bin/sh\nif [ $1 = bound ]; then env; fi\n");
  chmodSync(script, 0o755);
  const words = ["udhcpc", "-i", "eth0", "-f", "-q", "-n", "-t", "2", "-T", "1", "-s", script, ...more];
  const text = await said(machine.spawn("busybox", words, { env: { PATH: process.env.PATH } }));
  return Object.fromEntries([...text.matchAll(/^(\w+)=(.*)$/gm)].map(([, name = "", value = ""]) => [name, value]));
}

test("busybox udhcpc gets an address and what else was configured", async (t) => {
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
