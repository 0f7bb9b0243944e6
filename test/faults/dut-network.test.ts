// A DUT network in the kernel: a board, a host with an agent, and the world outside, in namespaces of their own.
import assert from "node:assert/strict";
import { existsSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import {
  answerConnections,
  askTime,
  missingForDutNetwork,
  outsideAddress,
  pings,
  resolves,
  startDutNetworkLab,
  whoAmI,
  type DutNetworkLab,
} from "../sim/dut-network-lab.ts";

const gateway = "192.168.100.1";
const { farAway } = outsideAddress;

/** All that a DUT network changes on the host, as text. */
async function hostState({ host }: DutNetworkLab): Promise<string> {
  const links = JSON.parse(await host.run("ip", ["-j", "-4", "address"])) as {
    ifname?: string;
    flags: string[];
    addr_info: { local: string }[];
  }[];
  const interfaces = links.flatMap(({ ifname, flags, addr_info }) =>
    ifname === undefined
      ? []
      : [[ifname, flags.includes("UP") && "up", ...addr_info.map(({ local }) => local)].join(" ")],
  );
  const forwarding = await host.run("sh", ["-c", "grep . /proc/sys/net/ipv4/conf/*/forwarding"]);
  return [...interfaces, forwarding, await host.run("nft", ["list", "ruleset"])].join("\n");
}

/** Processes of dnsmasq that serve this lab. */
async function dnsmasqs({ host, stateDirectory }: DutNetworkLab): Promise<string[]> {
  const found = await host.run("sh", ["-c", `pgrep -f -- '--conf-file=${stateDirectory}/dnsmasq.con[f]' || true`]);
  return found.split("\n").filter((line) => line !== "");
}

/** Processes that capture. Process ids know no network namespace, so this sees those of other tests, too. */
async function tcpdumps({ host }: DutNetworkLab): Promise<string> {
  return (await host.run("sh", ["-c", "pgrep -f 'tcpdump -i dut[0]' || true"])).trim();
}

/** Gives the board an address by hand, where DHCP is not what is tested. */
async function placeBoard({ board }: DutNetworkLab, address: string): Promise<void> {
  await board.run("ip", ["address", "add", `${address}/24`, "dev", "eth0"]);
  await board.run("ip", ["route", "add", "default", "via", gateway]);
}

async function eventually(holds: () => Promise<boolean>): Promise<void> {
  for (let waited = 0; !(await holds()); waited += 100) {
    assert.ok(waited < 10_000, "it does not come to that");
    await sleep(100);
  }
}

describe("a DUT network", { skip: missingForDutNetwork() }, () => {
  for (const dhcp_server of ["builtin", "dnsmasq"] as const) {
    test(`${dhcp_server}: the board gets an address and reaches the world as the host; at the end nothing is left`, async (t) => {
      const lab = await startDutNetworkLab(t);
      const before = await hostState(lab);
      const kept = { ip: "192.168.100.50", mac: "02:00:00:00:00:99", hostname: "kept" };
      const agent = await lab.agent({ dhcp_server, addresses: [kept] });
      const given = await lab.dhcp();
      assert.deepEqual(given, { ip: "192.168.100.100", router: gateway, dns: gateway });
      assert.ok(await pings(lab.board, gateway));
      assert.ok(await pings(lab.board, farAway));
      await answerConnections(lab.outside, 80);
      assert.equal(await whoAmI(lab.board, farAway, 80), outsideAddress.host);

      const status = await agent.network.status();
      assert.deepEqual(status.interface_status, { name: "dut0", exists: true, addresses: [`${gateway}/24`] });
      assert.equal(status.upstream, "up0");
      assert.match(status.nat_rules, /oifname "up0" ip saddr 192\.168\.100\.0\/24 masquerade/);
      const [lease, reserved] = status.leases;
      assert.equal(lease?.ip, given.ip);
      assert.equal(await agent.network.get_dut_ip(lease.mac.toUpperCase()), given.ip);
      assert.deepEqual(reserved, { ...kept, expiry: 0 });

      await agent.end("SIGTERM");
      assert.equal(await hostState(lab), before, agent.output());
      assert.deepEqual(await dnsmasqs(lab), []);
      assert.ok(!existsSync(lab.stateDirectory));
    });

    test(`${dhcp_server}: what a client adds to addresses and names is gone when the next lease begins`, async (t) => {
      const lab = await startDutNetworkLab(t);
      const { network, reset, end } = await lab.agent({
        dhcp_server,
        dns_entries: [{ hostname: "server.lab", ip: "10.1.2.3" }],
        dns_servers: [],
      });
      const dynamic = await lab.dhcp();
      const mac = (await network.get_leases())[0]?.mac ?? "";
      assert.equal(await resolves(lab.board, "server.lab", gateway), "10.1.2.3");

      await network.add_address("192.168.100.42", mac, "myboard");
      assert.equal((await lab.dhcp()).ip, "192.168.100.42");
      await network.add_dns_entry("other.lab", "10.9.9.9");
      await eventually(async () => (await resolves(lab.board, "other.lab", gateway)) === "10.9.9.9");
      assert.equal(await resolves(lab.board, "server.lab", gateway), "10.1.2.3");
      await network.remove_dns_entry("server.lab");
      await eventually(async () => (await resolves(lab.board, "server.lab", gateway)) === undefined);

      // What cannot be is refused, and leaves no trace in what comes later.
      for (const [ip, given, hostname, message] of [
        ["10.0.0.1", null, "", /not within subnet/],
        [gateway, null, "", /the gateway's own/],
        ["192.168.100.60", "no-mac", "", /Invalid MAC address/],
        ["192.168.100.60", mac, "a b", /Invalid hostname/],
      ] as const) {
        await assert.rejects(network.add_address(ip, given, hostname), message);
      }
      await assert.rejects(network.add_dns_entry("x\naddress=/bank/", "10.1.1.1"), /Invalid hostname/);
      await network.add_dns_entry("third.lab", "10.3.3.3");
      assert.deepEqual(
        (await network.get_dns_entries()).map(({ hostname }) => hostname),
        ["other.lab", "third.lab"],
      );

      await reset();
      assert.deepEqual(await network.get_dns_entries(), [{ hostname: "server.lab", ip: "10.1.2.3" }]);
      await eventually(async () => (await resolves(lab.board, "server.lab", gateway)) === "10.1.2.3");
      assert.equal(await resolves(lab.board, "other.lab", gateway), undefined);
      const again = await lab.dhcp();
      assert.notEqual(again.ip, "192.168.100.42");
      assert.notEqual(dynamic.ip, "");
      // Even where somebody has tidied up too much, nobody stays behind.
      rmSync(lab.stateDirectory, { recursive: true });
      await end("SIGTERM");
      assert.deepEqual(await dnsmasqs(lab), []);
    });
  }

  test("without dnsmasq boards get addresses and foreign DNS servers, and names are refused with a reason", async (t) => {
    const lab = await startDutNetworkLab(t);
    const dns_servers = [outsideAddress.neighbour];
    const { network } = await lab.agent({ dns_servers }, { without: ["dnsmasq"] });
    assert.deepEqual(await lab.dhcp(), { ip: "192.168.100.100", router: gateway, dns: outsideAddress.neighbour });
    await assert.rejects(network.add_dns_entry("server.lab", "10.1.2.3"), /DNS entries need dnsmasq/);
    assert.deepEqual(await network.get_dns_entries(), []);
    await network.add_address("192.168.100.42", (await network.get_leases())[0]?.mac);
    assert.equal((await lab.dhcp()).ip, "192.168.100.42");
  });

  for (const user of ["capable", "sudoer"] as const) {
    test(`without being root, but ${user}: the network comes, works, and goes`, async (t) => {
      const lab = await startDutNetworkLab(t);
      const before = await hostState(lab);
      const config = { local_ntp: true, ntp_local_clock: true, enable_tcpdump: true, dns_servers: [] };
      const { network, reset, end, output } = await lab.agent(
        { ...config, dns_entries: [{ hostname: "server.lab", ip: "10.1.2.3" }] },
        { user },
      );
      assert.ok((await network.status()).interface_status.exists, output());
      assert.equal((await lab.dhcp()).router, gateway);
      assert.ok(await pings(lab.board, farAway));
      assert.equal(await resolves(lab.board, "server.lab", gateway), "10.1.2.3");
      assert.equal((await askTime(lab.board, farAway)).stratum, 10);
      for await (const line of network.tcpdump(["-n", "icmp"])) {
        if (/listening on dut0/.test(line)) void pings(lab.board, gateway);
        if (/ICMP echo/.test(line)) break;
      }
      await eventually(async () => (await tcpdumps(lab)) === "");
      await reset();
      await end("SIGTERM");
      assert.equal(await hostState(lab), before, output());
      assert.deepEqual(await dnsmasqs(lab), []);
      assert.ok(!existsSync(lab.stateDirectory));
    });
  }

  test("missing programs are named, all of them, and only this driver is offline", async (t) => {
    const lab = await startDutNetworkLab(t);
    const config = { dhcp_server: "dnsmasq", enable_tcpdump: true };
    const { network } = await lab.agent(config, { without: ["dnsmasq", "tcpdump", "nft"] });
    await assert.rejects(
      network.status(),
      /requires the following tools: nft \(nftables\), dnsmasq, tcpdump\. Install them with: apt-get install/,
    );
  });

  test("filters drop what they say, in both directions, and nothing else", async (t) => {
    const lab = await startDutNetworkLab(t);
    const filter = {
      egress: {
        policy: "drop",
        rules: [
          { action: "accept", destination: `${farAway}/32`, port: 80, protocol: "tcp" },
          { action: "accept", destination: outsideAddress.neighbour, protocol: "tcp" },
        ],
      },
      ingress: { policy: "drop", rules: [{ action: "accept", source: "10.66.0.0/24", port: 22, protocol: "tcp" }] },
    };
    await lab.agent({ filter, dhcp_enabled: false });
    await placeBoard(lab, "192.168.100.5");
    await answerConnections(lab.outside, 80, 81);
    await answerConnections(lab.board, 22, 23);
    assert.equal(await whoAmI(lab.board, farAway, 80), outsideAddress.host);
    assert.equal(await whoAmI(lab.board, farAway, 81), undefined);
    assert.equal(await whoAmI(lab.board, outsideAddress.neighbour, 81), outsideAddress.host);
    assert.ok(!(await pings(lab.board, farAway)));
    // Someone outside who knows the way in.
    await lab.outside.run("ip", ["route", "add", "192.168.100.0/24", "via", outsideAddress.host]);
    assert.equal(await whoAmI(lab.outside, "192.168.100.5", 22), outsideAddress.neighbour);
    assert.equal(await whoAmI(lab.outside, "192.168.100.5", 23), undefined);
    assert.ok(await pings(lab.board, gateway));
  });

  test("1:1 NAT: a board has a public address, out and in, also for the host itself", async (t) => {
    const lab = await startDutNetworkLab(t);
    const before = await hostState(lab);
    const { network, reset, end, output } = await lab.agent({
      nat_mode: "1to1",
      addresses: [{ ip: "192.168.100.5", public_ip: "10.66.0.5" }],
    });
    await placeBoard(lab, "192.168.100.5");
    await answerConnections(lab.outside, 80);
    await answerConnections(lab.board, 22);
    assert.equal(await whoAmI(lab.board, farAway, 80), "10.66.0.5");
    assert.equal(await whoAmI(lab.outside, "10.66.0.5", 22), outsideAddress.neighbour);
    assert.ok(await whoAmI(lab.host, "10.66.0.5", 22));

    // A second board, while the first one's rules stay in force.
    await network.add_address("192.168.100.6", null, "", "10.66.0.6");
    await lab.board.run("ip", ["address", "add", "192.168.100.6/24", "dev", "eth0"]);
    assert.equal(await whoAmI(lab.outside, "10.66.0.6", 22), outsideAddress.neighbour);
    assert.equal(await whoAmI(lab.outside, "10.66.0.5", 22), outsideAddress.neighbour);
    await assert.rejects(network.add_address("192.168.100.7", null, "", "10.66.0.6"), /another one has it/);
    await assert.rejects(network.add_address("192.168.100.7", null, "", "no.such.name.invalid"), /Cannot resolve/);
    assert.equal(((await network.get_nat_rules()).match(/dnat to/g) ?? []).length, 4);
    await reset();
    assert.equal(((await network.get_nat_rules()).match(/dnat to/g) ?? []).length, 2);
    assert.doesNotMatch(await lab.host.run("ip", ["address", "show", "dev", "up0"]), /10\.66\.0\.6/);

    await end("SIGTERM");
    assert.equal(await hostState(lab), before, output());
  });

  test("a board gets the host's time from whichever server it asks", async (t) => {
    const lab = await startDutNetworkLab(t);
    const { network, end } = await lab.agent({ local_ntp: true, ntp_local_clock: true, dhcp_enabled: false });
    await placeBoard(lab, "192.168.100.5");
    assert.deepEqual(await network.ntp_status(), { enabled: true, running: true });
    for (const server of [gateway, farAway]) {
      const reply = await askTime(lab.board, server);
      assert.equal(reply.leap, 0);
      assert.equal(reply.stratum, 10);
      assert.ok(Math.abs(reply.transmitMs - Date.now()) < 5_000, `${reply.transmitMs}`);
    }
    await end("SIGTERM");
    // The host's own NTP server may have the port.
    const other = `require("node:dgram").createSocket("udp4").bind(123, () => console.log("ready"))`;
    const holder = lab.host.spawn(process.execPath, ["-e", other], { stdio: ["ignore", "pipe", "inherit"] });
    await new Promise((resolve) => holder.stdout?.once("data", resolve));
    await lab.agent({ local_ntp: true, ntp_local_clock: true, dhcp_enabled: false });
    assert.equal((await askTime(lab.board, gateway)).stratum, 10);
  });

  test("a capture gives lines as they come, and ends with its reader", async (t) => {
    const lab = await startDutNetworkLab(t);
    const { network } = await lab.agent({ enable_tcpdump: true, dhcp_enabled: false });
    await placeBoard(lab, "192.168.100.5");
    let packets = 0;
    for await (const line of network.tcpdump(["-n", "-e", "icmp"])) {
      if (/listening on dut0/.test(line)) void pings(lab.board, gateway);
      if (/ICMP echo/.test(line)) packets += 1;
      if (packets === 2) break;
    }
    await eventually(async () => (await tcpdumps(lab)) === "");
    await assert.rejects(async () => {
      for await (const line of network.tcpdump(["-w", join(lab.directory, "stolen")])) assert.fail(line);
    }, /tcpdump option -w is not allowed/);
    assert.ok(!existsSync(join(lab.directory, "stolen")));
  });

  test("an agent that is killed leaves a network that the next one takes over cleanly", async (t) => {
    const lab = await startDutNetworkLab(t);
    const before = await hostState(lab);
    const config = { nat_mode: "1to1", addresses: [{ ip: "192.168.100.5", public_ip: "10.66.0.5" }], local_ntp: true };
    const first = await lab.agent(config);
    const { ip } = await lab.dhcp();
    await first.network.add_address("192.168.100.6", null, "", "10.66.0.6");
    await first.end("SIGKILL");
    // The board keeps its network meanwhile.
    assert.ok(await pings(lab.board, farAway));

    const second = await lab.agent(config);
    assert.equal((await dnsmasqs(lab)).length, 1);
    assert.doesNotMatch(await lab.host.run("ip", ["address", "show", "dev", "up0"]), /10\.66\.0\.6/);
    assert.equal((await second.network.get_leases())[0]?.ip, ip, "leases outlive the agent");
    assert.equal((await lab.dhcp()).ip, ip);
    assert.ok(await pings(lab.board, farAway));
    await second.end("SIGTERM");
    assert.equal(await hostState(lab), before, second.output());
    assert.deepEqual(await dnsmasqs(lab), []);
  });

  test("two networks share the way out: when one closes, the other's board still gets through", async (t) => {
    const lab = await startDutNetworkLab(t);
    await lab.host.run("ip", ["link", "add", "dut1", "type", "veth", "peer", "name", "unused"]);
    const before = await hostState(lab);
    const first = await lab.agent({
      interface: "dut1",
      subnet: "192.168.101.0/24",
      gateway_ip: "192.168.101.1",
      dhcp_enabled: false,
      state_dir: join(lab.directory, "other"),
    });
    const second = await lab.agent();
    await lab.dhcp();
    await first.end("SIGTERM");
    assert.ok(await pings(lab.board, farAway));
    await second.end("SIGTERM");
    assert.equal(await hostState(lab), before);
  });

  test("two agents cannot have the same interface: the second one's driver is offline until the first has gone", async (t) => {
    const lab = await startDutNetworkLab(t);
    const first = await lab.agent();
    const second = await lab.agent();
    await assert.rejects(second.network.status(), /dut0 is in use by another DUT network/);
    assert.ok((await first.network.status()).interface_status.exists);
    await first.end("SIGKILL");
    await sleep(1_100);
    assert.ok((await second.network.status()).interface_status.exists);
    assert.equal((await lab.dhcp()).router, gateway);
  });

  test("the host's own way out is never taken for the boards' side", async (t) => {
    const lab = await startDutNetworkLab(t);
    const before = await hostState(lab);
    const { network } = await lab.agent({ interface: "up0", upstream_interface: "dut0" });
    await assert.rejects(network.status(), /up0 is this host's own way out/);
    assert.equal(await hostState(lab), before);
  });

  test("where Docker drops what is forwarded, the board's packets are let through", async (t) => {
    const lab = await startDutNetworkLab(t);
    const chain = "add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }";
    for (const words of ["add table ip filter", chain, "add rule ip filter FORWARD iifname docker0 accept"]) {
      await lab.host.run("nft", [words]);
    }
    const before = await hostState(lab);
    const { end } = await lab.agent({ dhcp_enabled: false });
    await placeBoard(lab, "192.168.100.5");
    assert.ok(await pings(lab.board, farAway));
    const rules = await lab.host.run("nft", ["list", "chain", "ip", "filter", "FORWARD"]);
    assert.equal((rules.match(/"(dut0|up0)" accept/g) ?? []).length, 4);
    await end("SIGKILL");
    const second = await lab.agent({ dhcp_enabled: false });
    await second.end("SIGTERM");
    assert.equal(await hostState(lab), before);
  });

  test("what has fallen down between leases is brought up for the next one", async (t) => {
    const lab = await startDutNetworkLab(t);
    const { reset, output } = await lab.agent();
    const { ip } = await lab.dhcp();
    process.kill(Number(readFileSync(join(lab.stateDirectory, "dnsmasq.pid"), "utf8")), "SIGKILL");
    await eventually(async () => /dnsmasq ended by itself/.test(output()));
    await reset();
    assert.equal((await lab.dhcp()).router, gateway);
    // An adapter that was unplugged and plugged in again.
    await lab.host.run("ip", ["link", "delete", "dut0"]);
    const words = ["link", "add", "dut0", "type", "veth", "peer", "name", "eth0", "netns", String(lab.board.pid)];
    await lab.host.run("ip", words);
    await lab.board.run("ip", ["link", "set", "eth0", "up"]);
    await reset();
    assert.equal((await lab.dhcp()).router, gateway, output());
    assert.ok(await pings(lab.board, farAway));
    assert.ok(ip);
  });
});
