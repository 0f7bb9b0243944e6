// TFTP servers side by side in one run: `npm run bench -- tftp`. Prints Markdown tables.
import { mkdtempSync, rmSync } from "node:fs";
import { loadavg, tmpdir } from "node:os";
import { join } from "node:path";
// Plain JavaScript: it also runs before anything is installed.
import { missingPrograms } from "../../../scripts/programs.mjs";
import { missingTftpPeers } from "../../sim/tftp-peers.ts";
import { Cleanup } from "./cleanup.ts";
import { Clients } from "./client.ts";
import { measureLoss } from "./loss.ts";
import { measureSpeed } from "./speed.ts";
import type { Table } from "./tables.ts";
import { measureUBoot } from "./u-boot.ts";

export const tftpPlaces = ["loopback", "veth", "loss", "u-boot"] as const;

/** What is measured; every combination of the lists. */
export interface TftpBench {
  readonly rounds: number;
  /** Of one measurement; transfers that run are completed. */
  readonly seconds: number;
  readonly warmUpSeconds: number;
  readonly on: readonly (typeof tftpPlaces)[number][];
  readonly blksize: readonly number[];
  readonly windowsize: readonly number[];
  readonly clients: readonly number[];
}

export const fullTftpBench: TftpBench = {
  rounds: 5,
  seconds: 0.4,
  warmUpSeconds: 2,
  on: tftpPlaces,
  blksize: [512, 1468, 8192, 65464],
  windowsize: [1, 8, 16, 64],
  clients: [1, 16, 64],
};
/** Shows that it works, not how fast. */
export const quickTftpBench: TftpBench = {
  rounds: 1,
  seconds: 0.05,
  warmUpSeconds: 0.2,
  on: ["loopback", "veth"],
  blksize: [1468],
  windowsize: [1, 16],
  clients: [1, 4],
};

const needed = ["ip", "nft", "ethtool", "unshare", "nsenter", "setpriv"];

type Measure = (wanted: TftpBench, clients: Clients, life: Cleanup) => Promise<Table[]>;
const measures: Record<(typeof tftpPlaces)[number], Measure> = {
  loopback: (...all) => measureSpeed("loopback", ...all),
  veth: (...all) => measureSpeed("veth", ...all),
  loss: measureLoss,
  "u-boot": measureUBoot,
};

/** Prints tables. Says what is missing, by name, and measures nothing then. */
export async function tftpBench(wanted: TftpBench): Promise<void> {
  const missing = [missingTftpPeers(), ...missingPrograms(needed)].filter((each) => each !== false);
  if (missing.length > 0) return console.error(`no TFTP figures: ${missing.join(", ")}`);
  const life = new Cleanup();
  // Servers and files go with an interrupted bench, too.
  const stop = () => void life.end().finally(() => process.exit(1));
  for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, stop);
  await life.during(async (inner) => {
    const root = mkdtempSync(join(tmpdir(), "jmp-agent-bench-"));
    inner.after(() => rmSync(root, { recursive: true, force: true }));
    const clients = Clients.build(root);
    if (clients === undefined) return console.error("no TFTP figures: there is no C compiler (cc)");
    for (const place of tftpPlaces.filter((each) => wanted.on.includes(each))) {
      // What else the machine did meanwhile is part of the result.
      const before = loadavg()[0] ?? 0;
      const tables = await measures[place](wanted, clients, inner);
      const load = `load of the machine ${before.toFixed(1)} before, ${loadavg()[0]?.toFixed(1)} after`;
      for (const { caption, lines } of tables) console.log(`\n${caption} (${load})\n\n${lines.join("\n")}`);
    }
  });
}
