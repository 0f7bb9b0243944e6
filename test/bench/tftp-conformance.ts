// The rules of test/sim/tftp-conformance.ts asked of this server, tftpd-hpa and dnsmasq, as a table for the docs.
// usage: node --import tsx test/bench/tftp-conformance.ts [IN_TFTPD]     as root; IN_TFTPD: tftpd-hpa's program
import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { checkRules, conformanceFiles, rules, type Verdict } from "../sim/tftp-conformance.ts";
import { startTftp, TftpPeer } from "../sim/tftp.ts";

const inTftpd = process.argv[2] ?? "/usr/sbin/in.tftpd";

if (process.env["TFTP_TABLE"] === undefined) {
  // dnsmasq serves on port 69 only: in a network of our own it is free. tftpd-hpa resolves no address of a family of
  // which the host has none beside loopback's.
  const inside = ["ip link set lo up", "ip address add 10.99.0.1/32 dev lo", 'exec "$@"'].join(" && ");
  const child = spawn(
    "unshare",
    ["--net", "sh", "-c", inside, "sh", process.execPath, "--import", "tsx", ...process.argv.slice(1)],
    { stdio: "inherit", env: { ...process.env, TFTP_TABLE: "inside" } },
  );
  const [code] = (await once(child, "exit")) as [number | null];
  process.exit(code ?? 1);
}

type Starter = (t: TestContext, root: string) => Promise<number>;

/** A server that is a program; it ends with the test. */
const program =
  (command: (root: string) => readonly string[], port: number): Starter =>
  async (t, root) => {
    const [file = "", ...args] = command(root);
    const child = spawn(file, args, { stdio: ["ignore", "ignore", "inherit"] });
    t.after(() => child.kill());
    await new Promise((resolve) => setTimeout(resolve, 500));
    if (child.exitCode !== null) throw new Error(`${file} ended with ${child.exitCode}`);
    return port;
  };

const servers: Record<string, Starter> = {
  "jumpstarter-agent": async (t, root) => {
    const uploads = { folder: root, maxBytes: 1 << 20 };
    const limits = { retransmitFloorMs: 300, retransmitWindowFloorMs: 300 };
    return (await startTftp(t, root, { uploads, limits })).port;
  },
  "tftpd-hpa": program(
    (root) => [inTftpd, "--foreground", "--create", "--address", "127.0.0.1:6969", "--secure", root],
    6969,
  ),
  dnsmasq: program(
    (root) =>
      ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--log-facility=/dev/null"].concat(
        ["--port=0", "--user=root", "--listen-address=127.0.0.1", "--bind-interfaces"],
        ["--enable-tftp", `--tftp-root=${root}`],
      ),
    69,
  ),
};

test("table", async (t) => {
  const marks: Record<Verdict, string> = { kept: "yes", broken: "**no**", unsupported: "-" };
  const columns: Verdict[][] = [];
  for (const start of Object.values(servers)) {
    const root = await mkdtemp(join(tmpdir(), "tftp-table-"));
    t.after(() => rm(root, { recursive: true, force: true }));
    await chmod(root, 0o777);
    await conformanceFiles(root);
    const port = await start(t, root);
    const results = await checkRules(() => TftpPeer.open(t, port));
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
