import assert from "node:assert/strict";
import { test } from "node:test";
import {
  dutNetworkConfig,
  parseAddress,
  parseDnsEntry,
  withAddress,
  withDnsEntry,
} from "../../../../net/dut-network/config.ts";

const parse = (config: Record<string, unknown>) => dutNetworkConfig.parse({ interface: "eth1", ...config });
const problems = (config: Record<string, unknown>) =>
  dutNetworkConfig.safeParse({ interface: "eth1", ...config }).error?.issues.map(({ message }) => message) ?? [];

test("the defaults are those of the Python driver", () => {
  const config = parse({ filter: {} });
  assert.equal(config.subnet.text, "192.168.100.0/24");
  assert.equal(config.gateway_ip, "192.168.100.1");
  assert.deepEqual(config.range, { start: "192.168.100.100", end: "192.168.100.200" });
  assert.deepEqual(config.dns_servers, ["8.8.8.8", "8.8.4.4"]);
  assert.equal(config.nat_mode, "masquerade");
  assert.equal(config.filter, undefined);
  assert.equal(config.state_dir, "/var/lib/jumpstarter/dut-network-eth1");
  assert.equal(parse({ subnet: "192.168.100.7/24" }).subnet.prefixLength, 24, "host bits may be set");
  assert.deepEqual(
    parse({ subnet: "10.0.0.8/29", gateway_ip: "10.0.0.9" }).range,
    { start: "10.0.0.9", end: "10.0.0.14" },
    "a small network gives all it has",
  );
});

for (const [what, config, message] of [
  ["an interface's name", { interface: "eth1; rm" }, /^Invalid interface name: 'eth1; rm'$/],
  ["a long name", { interface: "a".repeat(16) }, /^Invalid interface name/],
  ["a name that is a path", { interface: ".." }, /^Invalid interface name/],
  [
    "a gateway elsewhere",
    { gateway_ip: "10.0.0.1" },
    /^Gateway 10\.0\.0\.1 is not within subnet 192\.168\.100\.0\/24$/,
  ],
  ["the broadcast as gateway", { gateway_ip: "192.168.100.255" }, /the network or its broadcast/],
  ["IPv6", { subnet: "fd00::/64" }, /is not an IPv4 network/],
  ["no network", { subnet: "192.168.100.0/33" }, /is not an IPv4 network/],
  ["1:1 NAT of nothing", { nat_mode: "1to1" }, /^At least one address entry must have public_ip for 1:1 NAT mode$/],
  ["a mode that does not exist", { nat_mode: "masquarade" }, /masquerade/],
  ["a range elsewhere", { dhcp_range_start: "10.0.0.1" }, /is not within subnet/],
  ["a range backwards", { dhcp_range_start: "192.168.100.201" }, /ends at .*, before it starts/],
  ["a board elsewhere", { addresses: [{ ip: "10.0.0.1" }] }, /^Address 10\.0\.0\.1 is not within subnet/],
  ["the gateway as a board", { addresses: [{ ip: "192.168.100.1" }] }, /is the gateway's own/],
  ["a MAC", { addresses: [{ ip: "192.168.100.2", mac: "00:11" }] }, /^Invalid MAC address: '00:11'$/],
  ["two boards of one ip", { addresses: [{ ip: "192.168.100.2" }, { ip: "192.168.100.2" }] }, /there twice/],
  ["a host name", { dns_entries: [{ hostname: "a b", ip: "1.1.1.1" }] }, /^Invalid hostname: 'a b'$/],
  ["an address", { dns_entries: [{ hostname: "a", ip: "1.1.1" }] }, /is not an IPv4 address/],
  ["a server with more in it", { dns_servers: ["8.8.8.8\nconf-file=/etc/shadow"] }, /is not an IPv4 address/],
  [
    "a port alone",
    { filter: { egress: { rules: [{ action: "drop", port: 1 }] } } },
    /^port requires protocol to be set$/,
  ],
  ["another verdict", { filter: { egress: { policy: "reject" } } }, /accept/],
  ["an unknown rule key", { filter: { egress: { rules: [{ action: "drop", dest: "1.1.1.1" }] } } }, /dest/],
  [
    "a destination with rules in it",
    { filter: { egress: { rules: [{ action: "drop", destination: "1.1.1.1 accept" }] } } },
    /not a valid/,
  ],
  ["the way out as the inside", { upstream_interface: "eth1" }, /must not be the boards' interface/],
  ["a relative directory", { state_dir: "x" }, /absolute/],
] as const) {
  test(`refused in a configuration: ${what}`, () => {
    assert.match(problems(config).join("\n"), message);
  });
}

test("unknown keys beside egress and ingress are passed over, as YAML people write", () => {
  assert.deepEqual(
    problems({
      filter: { note: "x", egress: { policy: "drop" } },
      addresses: [{ ip: "192.168.100.2", mac: null, hostname: "" }],
    }),
    [],
  );
});

test("the last word about an ip or a MAC counts", () => {
  const network = { subnet: parse({}).subnet, gatewayIp: "192.168.100.1" };
  const add = (list: Parameters<typeof withAddress>[0], ip: string, mac: unknown, public_ip: unknown = null) =>
    withAddress(list, parseAddress({ ip, mac, hostname: "", public_ip }), network);
  let list = add([], "192.168.100.2", "AA:00:00:00:00:01");
  list = add(list, "192.168.100.3", "aa:00:00:00:00:02");
  list = add(list, "192.168.100.2", null);
  assert.deepEqual(
    list.map(({ ip, mac }) => `${ip} ${mac}`),
    ["192.168.100.3 aa:00:00:00:00:02", "192.168.100.2 undefined"],
  );
  list = add(list, "192.168.100.4", "AA:00:00:00:00:02", "10.0.0.1");
  assert.deepEqual(
    list.map(({ ip }) => ip),
    ["192.168.100.2", "192.168.100.4"],
  );
  assert.throws(() => add(list, "192.168.100.5", null, "10.0.0.1"), /another one has it/);
  const names = withDnsEntry(
    [parseDnsEntry({ hostname: "a", ip: "1.1.1.1" })],
    parseDnsEntry({ hostname: "a", ip: "2.2.2.2" }),
  );
  assert.deepEqual(names, [{ hostname: "a", ip: "2.2.2.2" }]);
});
