import { setTimeout as sleep } from "node:timers/promises";
import { figure, median } from "../statistics.ts";
import type { TftpBench } from "./bench.ts";
import type { Cleanup } from "./cleanup.ts";
import type { Clients } from "./client.ts";
import { startAll, type BenchServer, type RunningServer } from "./servers.ts";
import { grouped, rotated, table, type Table } from "./tables.ts";

interface Sample {
  readonly server: BenchServer;
  readonly blksize: number;
  readonly windowsize: number;
  readonly clients: number;
  /** MB/s, of all clients together. */
  readonly rate: number;
  /** Of the server's CPU, for a MB; NaN where it cannot be counted. */
  readonly cpuMs: number;
  /** The slowest client's rate, of the fastest one's. */
  readonly fairness: number;
}

const MiB = 1 << 20;
const limitSeconds = 60;

/** All servers in turn, at every combination of block size, window and number of clients; one table per number. */
export function measureSpeed(
  kind: "loopback" | "veth",
  wanted: TftpBench,
  clients: Clients,
  parent: Cleanup,
): Promise<Table[]> {
  return parent.during(async (life) => {
    const running = await startAll(life, kind, clients.root);
    // The first transfers of a server that is compiled while it runs are not what it is like for weeks.
    const warmUp = { bytes: 4 * MiB, blksize: 1468, windowsize: 8, clients: 2, seconds: wanted.warmUpSeconds };
    for (const { link } of running) await clients.run(link, { ...warmUp, limitSeconds });
    const samples: Sample[] = [];
    const unable = new Set<string>();
    for (let round = 0; round < wanted.rounds; round += 1) {
      for (const options of combinations(wanted)) {
        for (const each of rotated(running, round)) {
          const key = `${each.server.name} ${options.blksize}/${options.windowsize}`;
          if (unable.has(key)) continue;
          const sample = await measure(each, clients, { ...options, seconds: wanted.seconds });
          if (sample === "unable") unable.add(key);
          else if (typeof sample === "string") console.error(`${key}, ${options.clients} at once: ${sample}`);
          else samples.push(sample);
        }
      }
    }
    const servers = running.map(({ server }) => server);
    return grouped(samples, (sample) => `${sample.clients}`).map(([count, group]) => {
      const many = count !== "1";
      const shape = `MB/s, median (best) [server's CPU ms per MB]${many ? " slowest / fastest client" : ""}`;
      return speedTable(`${kind}, ${count} at once: ${shape}`, servers, group, many);
    });
  });
}

function* combinations(wanted: TftpBench) {
  for (const clients of wanted.clients) {
    for (const blksize of wanted.blksize) {
      for (const windowsize of wanted.windowsize) yield { blksize, windowsize, clients };
    }
  }
}

type Options = Pick<Sample, "blksize" | "windowsize" | "clients"> & { readonly seconds: number };

/** @returns "unable" when the server does not have the option in this size, another text when it failed */
async function measure(
  { server, link, cpu }: RunningServer,
  clients: Clients,
  options: Options,
): Promise<Sample | string> {
  // Some thousand blocks: a kernel for one board, an initramfs for each of many.
  const bytes = Math.min(8192 * options.blksize, 64 * MiB) / (options.clients === 1 ? 1 : 8);
  clients.file(bytes);
  const cpuSeconds = () => cpu?.seconds() ?? Number.NaN;
  const before = cpuSeconds();
  const outcome = await clients.run(link, { ...options, bytes, limitSeconds });
  // The last ACK is still to be read.
  await sleep(20);
  const cpuMs = ((cpuSeconds() - before) * 1000) / (outcome.bytes / 1e6);
  if (outcome.failure !== "") return outcome.failure;
  if (outcome.blksize !== options.blksize || outcome.windowsize !== options.windowsize) return "unable";
  return { server, ...options, rate: outcome.rate / 1e6, cpuMs, fairness: outcome.slowest / outcome.fastest };
}

function speedTable(caption: string, servers: readonly BenchServer[], samples: readonly Sample[], many: boolean) {
  const ours = servers.filter(({ isOurs }) => isOurs);
  const peers = servers.filter(({ isOurs }) => !isOurs);
  const names = servers.map(({ name }) => name);
  const head = ["blksize/windowsize", ...names, ...ours.map(({ name }) => `${name} : best peer`)];
  const rows = grouped(samples, ({ blksize, windowsize }) => `${blksize}/${windowsize}`).map(([name, group]) => {
    const of = (server: BenchServer) => group.filter((sample) => sample.server === server);
    const ratios = ours.map((server) => ratioCell(of(server), peers.map(of)));
    return [name, ...servers.map((server) => speedCell(of(server), many)), ...ratios];
  });
  return table(caption, head, rows);
}

function speedCell(samples: readonly Sample[], many: boolean): string {
  if (samples.length === 0) return "-";
  const { rate, cpuMs } = medians(samples);
  const fairness = median(samples.map(({ fairness }) => fairness)).toFixed(2);
  const best = Math.max(...samples.map((sample) => sample.rate));
  return `${figure(rate)} (${figure(best)}) [${figure(cpuMs)}]${many ? ` ${fairness}` : ""}`;
}

/** Ours by the fastest peer's rate, and by the CPU time of the peer that needs least. */
function ratioCell(ours: readonly Sample[], peers: readonly (readonly Sample[])[]): string {
  const able = peers.filter((samples) => samples.length > 0).map(medians);
  if (able.length === 0 || ours.length === 0) return "-";
  const { rate, cpuMs } = medians(ours);
  const rateRatio = rate / Math.max(...able.map((peer) => peer.rate));
  return `${rateRatio.toFixed(2)} [${(cpuMs / Math.min(...able.map((peer) => peer.cpuMs))).toFixed(2)}]`;
}

function medians(samples: readonly Sample[]) {
  return { rate: median(samples.map(({ rate }) => rate)), cpuMs: median(samples.map(({ cpuMs }) => cpuMs)) };
}
