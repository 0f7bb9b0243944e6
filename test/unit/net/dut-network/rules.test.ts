import assert from "node:assert/strict";
import { test } from "node:test";
import { dutNetworkConfig, type Filter } from "../../../../net/dut-network/config.ts";
import {
  dropForwardAccepts,
  forwardAccepts,
  natTable,
  ntpTable,
  tableName,
  unusedForwarding,
  type Nat,
} from "../../../../net/dut-network/nft.ts";

const nat: Nat = {
  inside: "eth-dut",
  outside: "eth0",
  subnet: "192.168.100.0/24",
  mappings: undefined,
  filter: undefined,
};
const filterOf = (filter: unknown) => dutNetworkConfig.parse({ interface: "eth-dut", filter }).filter as Filter;
const rulesOf = (text: string, chain: string) =>
  (new RegExp(`chain ${chain} \\{\\n([^}]*)\\}`).exec(text)?.[1] ?? "")
    .trim()
    .split("\n")
    .map((line) => line.trim());

test("a table is named after its interface, and replaced in one transaction", () => {
  assert.equal(tableName("eth-dut.100"), "jumpstarter_eth_dut.100");
  assert.equal(
    natTable(nat),
    `table ip jumpstarter_eth_dut
delete table ip jumpstarter_eth_dut
table ip jumpstarter_eth_dut {
    chain postrouting {
        type nat hook postrouting priority srcnat; policy accept;
        oifname "eth0" ip saddr 192.168.100.0/24 masquerade
    }
    chain forward {
        type filter hook forward priority filter; policy accept;
        iifname "eth-dut" oifname "eth0" accept
        iifname "eth0" oifname "eth-dut" ct state related,established accept
    }
}
`,
  );
});

test("a filter lets answers through first, and ends each direction with its policy", () => {
  const filter = filterOf({
    egress: {
      policy: "drop",
      rules: [
        { action: "accept", destination: "10.0.0.0/8", source: "1.1.1.1", port: "443", protocol: "tcp" },
        { action: "drop", protocol: "udp" },
        { action: "accept" },
      ],
    },
    ingress: { rules: [{ action: "drop", source: "10.1.0.0/16", destination: "2.2.2.2" }] },
  });
  assert.deepEqual(rulesOf(natTable({ ...nat, filter }), "forward"), [
    "type filter hook forward priority filter; policy accept;",
    "ct state related,established accept",
    'iifname "eth-dut" oifname "eth0" ip daddr 10.0.0.0/8 tcp dport 443 accept',
    'iifname "eth-dut" oifname "eth0" ip protocol udp drop',
    'iifname "eth-dut" oifname "eth0" accept',
    'iifname "eth-dut" oifname "eth0" drop',
    'iifname "eth0" oifname "eth-dut" ip saddr 10.1.0.0/16 drop',
    'iifname "eth0" oifname "eth-dut" accept',
  ]);
});

test("1:1 NAT maps in, out and for the host itself, before everything else is masqueraded", () => {
  const mappings = [
    { privateIp: "192.168.100.5", publicIp: "10.0.0.5" },
    { privateIp: "192.168.100.6", publicIp: "10.0.0.6" },
  ];
  const text = natTable({ ...nat, mappings, filter: filterOf({ ingress: { policy: "drop" } }) });
  assert.equal((text.match(/dnat to/g) ?? []).length, 4);
  assert.equal((text.match(/snat to/g) ?? []).length, 2);
  assert.deepEqual(rulesOf(text, "prerouting").slice(1), [
    'iifname "eth0" ip daddr 10.0.0.5 dnat to 192.168.100.5',
    'iifname "eth0" ip daddr 10.0.0.6 dnat to 192.168.100.6',
  ]);
  assert.deepEqual(rulesOf(text, "output").slice(1), [
    "ip daddr 10.0.0.5 dnat to 192.168.100.5",
    "ip daddr 10.0.0.6 dnat to 192.168.100.6",
  ]);
  assert.deepEqual(rulesOf(text, "postrouting").slice(1), [
    'ip saddr 192.168.100.5 oifname "eth0" snat to 10.0.0.5',
    'ip saddr 192.168.100.6 oifname "eth0" snat to 10.0.0.6',
    'oifname "eth0" ip saddr 192.168.100.0/24 masquerade',
  ]);
  assert.deepEqual(rulesOf(text, "forward").slice(1), [
    "ct state related,established accept",
    'iifname "eth-dut" oifname "eth0" accept',
    'iifname "eth0" oifname "eth-dut" ip daddr 192.168.100.5 accept',
    'iifname "eth0" oifname "eth-dut" ip daddr 192.168.100.6 accept',
    'iifname "eth0" oifname "eth-dut" drop',
  ]);
  const open = natTable({ ...nat, mappings });
  assert.match(rulesOf(open, "forward").at(-1) ?? "", /ip daddr 192\.168\.100\.6 accept/);
});

test("NTP of the boards is turned to us by a table of its own", () => {
  assert.match(
    ntpTable("eth-dut", "192.168.100.1", 123),
    /table ip jumpstarter_eth_dut_ntp \{\n {4}chain prerouting \{\n.*\n {8}iifname "eth-dut" udp dport 123 dnat to 192\.168\.100\.1:123\n/,
  );
});

test("forwarding is switched off again when the last network that needs an interface has gone", () => {
  const mark = (name: string) => `table ip jumpstarter_forwarding_${name} {\n}\n`;
  const table = (name: string, text: string) => `table ip ${name} {\n\tchain forward {\n\t\t${text}\n\t}\n}\n`;
  const others =
    table("filter", 'iifname "eth0" accept') + table("jumpstarter_dut1", 'iifname "dut1" oifname "eth1" accept');
  assert.deepEqual(unusedForwarding(mark("eth0") + mark("eth1") + mark("dut-0.1") + others), ["eth0", "dut-0.1"]);
  assert.deepEqual(unusedForwarding(""), []);
});

test("of a chain of others only our own rules are taken out", () => {
  assert.equal(forwardAccepts("dut0", "eth0").split("\n").length, 5);
  const listed = `table ip filter {
  chain FORWARD { # handle 1
    type filter hook forward priority filter; policy drop;
    oifname "eth0" accept comment "jumpstarter dut-network dut0" # handle 7
    iifname "docker0" accept # handle 3
    iifname "dut0" accept comment "jumpstarter dut-network dut01" # handle 9
    iifname "dut0" accept comment "jumpstarter dut-network dut0" # handle 12
  }
}`;
  assert.equal(
    dropForwardAccepts(listed, "dut0"),
    "delete rule ip filter FORWARD handle 7\ndelete rule ip filter FORWARD handle 12\n",
  );
});
