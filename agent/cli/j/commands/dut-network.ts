import { dutNetwork } from "../../../../net/dut-network/interface.ts";
import { AgentError } from "../../../driver/errors.ts";
import { command, type Commands, type Run } from "../command.ts";

const calls = ({ node, signal }: Run) => node.as(dutNetwork, { signal });

/** As the Python `j` prints it: columns of these widths, below the heads a rule, and a last column that is as wide as it is. */
function printTable(
  { print }: Run,
  { widths, ruleWidth }: { widths: readonly number[]; ruleWidth: number },
  rows: readonly (readonly string[])[],
): void {
  const [head = [], ...rest] = rows.map((cells) => cells.map((cell, index) => cell.padEnd(widths[index] ?? 0)));
  print(head.join(" "));
  print("-".repeat(ruleWidth));
  for (const cells of rest) print(cells.join(" "));
}

export const commands: Commands = {
  status: command({
    help: "Show network status (interface, leases, NAT)",
    run: async (run) => run.print(JSON.stringify(await calls(run).status(), undefined, 2)),
  }),
  leases: command({
    help: "Show all current DHCP leases",
    run: async (run) => {
      const leases = await calls(run).get_leases();
      if (leases.length === 0) return run.print("No active DHCP leases.");
      const rows = leases.map(({ mac, ip, hostname, expiry }) => [mac, ip, hostname, `${expiry}`]);
      printTable(run, { widths: [20, 16, 20], ruleWidth: 70 }, [["MAC", "IP", "Hostname", "Expiry"], ...rows]);
    },
  }),
  "get-ip": command({
    help: "Look up assigned IP for a DUT by MAC address",
    args: { mac: {} },
    run: async (run, { mac }) => {
      const ip = await calls(run).get_dut_ip(mac);
      if (ip === null) throw new AgentError("E_FAILED", `No lease found for MAC ${mac}`);
      run.print(ip);
    },
  }),
  "add-address": command({
    help: "Add an address entry (with optional MAC for DHCP static lease)",
    args: { ip: {} },
    options: {
      mac: { kind: "text", short: "m", help: "MAC address for DHCP static lease" },
      hostname: { kind: "text", short: "n", default: "", help: "Hostname for the entry" },
      publicIp: { kind: "text", help: "Public IP for 1:1 NAT mapping" },
    },
    run: async (run, { ip, mac, hostname, publicIp }) => {
      await calls(run).add_address(ip, mac, hostname, publicIp);
      run.print(`Added address: ${ip}${mac === undefined ? "" : ` (mac=${mac})`}`);
    },
  }),
  "remove-address": command({
    help: "Remove an address entry by IP",
    args: { ip: {} },
    run: async (run, { ip }) => {
      await calls(run).remove_address(ip);
      run.print(`Removed address for ${ip}`);
    },
  }),
  "nat-rules": command({
    help: "Show active nftables NAT rules",
    run: async (run) => run.print((await calls(run).get_nat_rules()).trimEnd() || "No active NAT rules."),
  }),
  "ntp-status": command({
    help: "Show status of the local NTP server",
    run: async (run) => {
      const { enabled, running } = await calls(run).ntp_status();
      const word = (value: boolean) => (value ? "True" : "False");
      run.print(`NTP enabled: ${word(enabled)}`);
      run.print(`NTP running: ${word(running)}`);
    },
  }),
  "dns-entries": command({
    help: "Show configured DNS entries",
    run: async (run) => {
      const entries = await calls(run).get_dns_entries();
      if (entries.length === 0) return run.print("No DNS entries configured.");
      printTable(run, { widths: [40], ruleWidth: 56 }, [
        ["Hostname", "IP"],
        ...entries.map(({ hostname, ip }) => [hostname, ip]),
      ]);
    },
  }),
  "add-dns": command({
    help: "Add a custom DNS entry",
    args: { hostname: {}, ip: {} },
    run: async (run, { hostname, ip }) => {
      await calls(run).add_dns_entry(hostname, ip);
      run.print(`Added DNS entry: ${hostname} -> ${ip}`);
    },
  }),
  "remove-dns": command({
    help: "Remove a custom DNS entry",
    args: { hostname: {} },
    run: async (run, { hostname }) => {
      await calls(run).remove_dns_entry(hostname);
      run.print(`Removed DNS entry: ${hostname}`);
    },
  }),
  tcpdump: command({
    help: "Run tcpdump on the DUT network interface (Ctrl+C to stop)",
    args: { args: { many: true } },
    raw: true,
    run: async (run, { args }) => {
      for await (const line of calls(run).tcpdump(args.length === 0 ? undefined : args)) run.print(line);
    },
  }),
};
