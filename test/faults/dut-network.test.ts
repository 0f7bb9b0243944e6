// A DUT network in the kernel: a board, a host with an agent, and the world outside, in namespaces of their own.
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import {
  answerConnections,
  missingForDutNetwork,
  outsideAddress,
  pings,
  startDutNetworkLab,
  whoAmI,
  type DutNetworkLab,
} from "../sim/dut-network-lab.ts";

/** All that a DUT network changes on the host, as text. */
async function hostState({ host }: DutNetworkLab): Promise<string> {
  const show = (command: string, ...args: string[]) => host.run(command, args);
  const addresses = await show("ip", "-4", "-brief", "address");
  const forwarding = await show("sh", "-c", "cat /proc/sys/net/ipv4/conf/{dut0,up0,all}/forwarding".replace(/\{.*\}/, "*"));
  return [addresses.replace(/ +/g, " "), forwarding, await show("nft", "list", "ruleset")].join("\n");
}

describe("a DUT network", { skip: missingForDutNetwork() }, () => {
  test("the board gets an address, reaches its gateway and, as the host, the world; at the end nothing is left", async (t) => {
    const lab = await startDutNetworkLab(t);
    const before = await hostState(lab);
    const agent = await lab.agent({ addresses: [{ ip: "192.168.100.50", mac: "02:00:00:00:00:99", hostname: "kept" }] });
    const given = await lab.dhcp();
    assert.deepEqual(given, { ip: "192.168.100.100", router: "192.168.100.1", dns: "192.168.100.1" });
    assert.ok(await pings(lab.board, given.router));
    assert.ok(await pings(lab.board, outsideAddress.farAway));
    await answerConnections(lab.outside, 80);
    assert.equal(await whoAmI(lab.board, outsideAddress.farAway, 80), outsideAddress.host);

    const status = await agent.network.status();
    assert.deepEqual(status.interface_status, { name: "dut0", exists: true, addresses: ["192.168.100.1/24"] });
    assert.equal(status.upstream, "up0");
    assert.match(status.nat_rules, /oifname "up0" ip saddr 192\.168\.100\.0\/24 masquerade/);
    const [lease, kept] = status.leases;
    assert.equal(lease?.ip, given.ip);
    assert.equal(await agent.network.get_dut_ip(lease?.mac.toUpperCase() ?? ""), given.ip);
    assert.deepEqual(kept, { mac: "02:00:00:00:00:99", ip: "192.168.100.50", hostname: "kept", expiry: 0 });

    await agent.end("SIGTERM");
    assert.equal(await hostState(lab), before, agent.output());
    assert.ok(!existsSync(lab.stateDirectory));
  });
});
