// The rules of test/sim/tftp-conformance.ts asked of this server, tftpd-hpa and dnsmasq, as a table for the docs.
// usage: node --import tsx test/bench/tftp-conformance.ts     as root
import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { checkRules, conformanceFiles, rules, type Verdict } from "../sim/tftp-conformance.ts";
import { startTftpPeer, tftpPort, type TftpPeerName } from "../sim/tftp-peers.ts";
import { startTftp, TftpPeer } from "../sim/tftp.ts";

if (process.env["TFTP_TABLE"] === undefined) {
  // The peers want port 69: in a network of our own it is free. tftpd-hpa resolves no address of a family of which the
  // host has none beside loopback's.
  const addresses = ["10.99.0.1", "127.0.0.2", "127.0.0.3"].map((address) => `ip address add ${address}/32 dev lo`);
  const inside = ["ip link set lo up", ...addresses, 'exec "$@"'].join(" && ");
  const child = spawn(
    "unshare",
    ["--net", "sh", "-c", inside, "sh", process.execPath, "--import", "tsx", ...process.argv.slice(1)],
    { stdio: "inherit", env: { ...process.env, TFTP_TABLE: "inside" } },
  );
  const [code] = (await once(child, "exit")) as [number | null];
  process.exit(code ?? 1);
}

type Starter = (t: TestContext, root: string) => Promise<{ port: number; address?: string }>;

const peer =
  (name: TftpPeerName, address: string): Starter =>
  async (t, root) => {
    const child = await startTftpPeer({ spawn }, name, { address, root, takesFiles: true });
    t.after(() => child.kill());
    return { port: tftpPort, address };
  };

const servers: Record<string, Starter> = {
  "jumpstarter-agent": async (t, root) => {
    const uploads = { folder: root, maxBytes: 1 << 20 };
    const limits = { retransmitFloorMs: 300, retransmitWindowFloorMs: 300 };
    return await startTftp(t, root, { uploads, limits });
  },
  "tftpd-hpa": peer("tftpd-hpa", "127.0.0.2"),
  dnsmasq: peer("dnsmasq", "127.0.0.3"),
};

test("table", async (t) => {
  const marks: Record<Verdict, string> = { kept: "yes", broken: "**no**", unsupported: "-" };
  const columns: Verdict[][] = [];
  for (const start of Object.values(servers)) {
    const root = await mkdtemp(join(tmpdir(), "tftp-table-"));
    t.after(() => rm(root, { recursive: true, force: true }));
    await chmod(root, 0o777);
    await conformanceFiles(root);
    const { port, address } = await start(t, root);
    const results = await checkRules(() => TftpPeer.open(t, port, address));
    columns.push(results.map(({ verdict }) => verdict));
    for (const { rule, verdict, heard } of results) {
      if (verdict === "broken") console.error(`port ${port}: ${rule.section}, ${rule.rule}: ${JSON.stringify(heard)}`);
    }
  }
  const row = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  const names = Object.keys(servers);
  const lines = [row(["RFC", "rule", ...names]), row(["---", "---", ...names.map(() => "---")])];
  for (const [index, { section, rule }] of rules.entries()) {
    lines.push(row([section, rule, ...columns.map((column) => marks[column[index] ?? "broken"])]));
  }
  console.log(`${lines.join("\n")}\n`);
});
