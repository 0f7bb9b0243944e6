import { figure, median } from "../statistics.ts";
import type { TftpBench } from "./bench.ts";
import type { Cleanup } from "./cleanup.ts";
import type { Clients } from "./client.ts";
import { startAll, type BenchServer, type RunningServer } from "./servers.ts";
import { grouped, table, type Table } from "./tables.ts";

interface Sample {
  readonly server: BenchServer;
  readonly windowsize: number;
  /** MB/s. */
  readonly rate: number;
  readonly complete: boolean;
}

/** A kernel, more or less. Servers that wait seconds for each lost packet need minutes for it. */
const bytes = 4 << 20;
const load = { blksize: 1468, clients: 1, seconds: 0, limitSeconds: 180 };
const windows = [1, 8, 64];
const maxRounds = 3;

/** One client each, with 1 % of the packets lost each way. All servers at once: most of the time they wait. */
export function measureLoss(wanted: TftpBench, clients: Clients, parent: Cleanup): Promise<Table[]> {
  return parent.during(async (life) => {
    const running = await startAll(life, "loss", clients.root);
    const rounds = Math.min(wanted.rounds, maxRounds);
    const samples = (await Promise.all(running.map((each) => measure(each, clients, rounds)))).flat();
    const servers = running.map(({ server }) => server);
    return [lossTable("1 % loss each way, blksize 1468, 4 MiB: MB/s, median (times tftpd-hpa)", servers, samples)];
  });
}

async function measure({ server, link }: RunningServer, clients: Clients, rounds: number): Promise<Sample[]> {
  const samples: Sample[] = [];
  for (const windowsize of windows) {
    // Asked with a small file: without a window the large one takes its minute.
    const answered = await clients.run(link, { ...load, bytes: 1024, windowsize });
    if (answered.windowsize !== windowsize) continue;
    for (let round = 0; round < rounds; round += 1) {
      const { rate, failure } = await clients.run(link, { ...load, bytes, windowsize });
      if (failure !== "") console.error(`${server.name}, 1 % loss, window ${windowsize}: ${failure}`);
      samples.push({ server, windowsize, rate: rate / 1e6, complete: failure === "" });
    }
  }
  return samples;
}

/** tftpd-hpa has no windows: all are compared with its one block at a time. */
function lossTable(caption: string, servers: readonly BenchServer[], samples: readonly Sample[]): Table {
  const rateOf = (of: readonly Sample[]) => median(of.map(({ rate }) => rate));
  const reference = rateOf(samples.filter(({ server }) => server.name === "tftpd-hpa"));
  const cell = (mine: readonly Sample[]) => {
    if (mine.length === 0) return "-";
    const whole = mine.filter(({ complete }) => complete).length;
    const failed = whole < mine.length ? `, ${whole} of ${mine.length} complete` : "";
    return `${figure(rateOf(mine))} (${figure(rateOf(mine) / reference)})${failed}`;
  };
  const rows = grouped(samples, ({ windowsize }) => `${windowsize}`).map(([windowsize, group]) => [
    windowsize,
    ...servers.map((server) => cell(group.filter((sample) => sample.server === server))),
  ]);
  return table(caption, ["windowsize", ...servers.map(({ name }) => name)], rows);
}
