import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { configText, dhcpHostsText, hostsText, parseLeases } from "../../../../net/dut-network/dnsmasq.ts";
import { findTool } from "../../../../net/dut-network/privilege.ts";
import { scratch } from "../../../sim/agent.ts";

const options = {
  directory: "/state",
  interface: "eth1",
  gatewayIp: "192.168.100.1",
  dnsServers: ["8.8.8.8", "8.8.4.4"],
  dhcp: { start: "192.168.100.100", end: "192.168.100.200" },
};

test("dnsmasq's configuration", () => {
  assert.equal(
    configText(options),
    `interface=eth1
except-interface=lo
bind-interfaces
dhcp-range=192.168.100.100,192.168.100.200,12h
dhcp-option=option:router,192.168.100.1
dhcp-leasefile=/state/dnsmasq.leases
pid-file=/state/dnsmasq.pid
addn-hosts=/state/hosts.local
dhcp-hostsfile=/state/dhcp-hosts
dhcp-sequential-ip
log-dhcp
no-resolv
no-hosts
keep-in-foreground
server=8.8.8.8
server=8.8.4.4
`,
  );
  assert.doesNotMatch(configText({ ...options, dhcp: undefined }), /dhcp/);
});

test(
  "dnsmasq itself takes the configuration",
  { skip: findTool("dnsmasq") === undefined && "no dnsmasq" },
  async (t) => {
    const path = join(scratch(t), "dnsmasq.conf");
    writeFileSync(path, configText(options));
    await promisify(execFile)(findTool("dnsmasq") ?? "", ["--test", `--conf-file=${path}`]);
  },
);

test("hosts files hold one line for each entry, and nothing when there is none", () => {
  assert.equal(hostsText([]), "");
  assert.equal(hostsText([{ hostname: "a.lab", ip: "10.0.0.1" }]), "10.0.0.1 a.lab\n");
  const mac = "aa:00:00:00:00:01";
  assert.equal(
    dhcpHostsText([
      { ip: "192.168.100.2", mac },
      { ip: "192.168.100.3", mac, hostname: "b" },
      { ip: "192.168.100.4", public_ip: "10.0.0.4" },
    ]),
    `${mac},192.168.100.2\n${mac},192.168.100.3,b\n`,
  );
});

test("leases are read from dnsmasq's file; lines that are none are passed over", () => {
  const text = `1700000000 aa:00:00:00:00:01 192.168.100.100 board 01:aa
0 aa:00:00:00:00:02 192.168.100.101 * *
duid 00:01:00:01
garbage

`;
  assert.deepEqual(parseLeases(text), [
    { mac: "aa:00:00:00:00:01", ip: "192.168.100.100", hostname: "board", expiry: 1700000000 },
    { mac: "aa:00:00:00:00:02", ip: "192.168.100.101", hostname: "", expiry: 0 },
  ]);
});
