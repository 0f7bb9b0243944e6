import { setTimeout as sleep } from "node:timers/promises";
import type * as z from "zod";
import { toAgentError } from "../driver/errors.ts";
import { statusAnswer, type AgentAnswer } from "../host/control-client.ts";
import { FlashLog, type FlashSummary } from "../ops/flash-log.ts";
import { durationText, sizeText } from "../ops/receipts/html-markup.ts";
import { defaultReceiptDirectory } from "../ops/receipts/place.ts";
import { ReceiptStore } from "../ops/receipts/store.ts";
import { defineCommand } from "./command.ts";
import { receiptDirectoryOption } from "./receipt-options.ts";
import { printable } from "./receipts/text.ts";
import { askRunning, runningAgentOptions } from "./running-agents.ts";
import { listenForStop } from "./signals.ts";

const watchEveryMs = 1_000;
const mostFlashes = 5;

export const status = defineCommand({
  name: "status",
  summary: "Show what the exporters of running agents do: leases, controller, drivers, transfers, the last flashes.",
  options: {
    ...runningAgentOptions,
    drivers: { type: "boolean", help: "all drivers, not only those that are offline" },
    json: { type: "boolean", help: "as JSON: one array with an object for each exporter" },
    watch: { type: "boolean", help: "again and again, until Ctrl-C" },
    ...receiptDirectoryOption,
  },
  notes: `
Asks every agent that this user runs and that serves a controller. The flashes are those of 'jmp-agent receipts'.

Exit code 1 if an exporter cannot reach its controller, an agent does not answer, or none runs.`,

  async run({ pid, drivers, json, watch, receipts: directory = defaultReceiptDirectory() }) {
    const flashes = new FlashLog(new ReceiptStore({ directory }));
    const show = async () => {
      const agents = (await askRunning("status", {}, pid)).map(read);
      const exporters = agents.flatMap(({ exporters }) => exporters);
      const problems = agents.flatMap(({ problem }) => (problem === undefined ? [] : [problem]));
      const text =
        json === true
          ? JSON.stringify(exporters, undefined, watch === true ? 0 : 2)
          : screen(exporters, await flashes.look(), { drivers: drivers === true });
      return { text, problems, good: problems.length === 0 && exporters.every(({ online }) => online) };
    };
    if (watch === true) return await watchStatus(show, { redraw: json !== true && process.stdout.isTTY });
    const { text, problems, good } = await show();
    if (text !== "") process.stdout.write(`${text}\n`);
    for (const problem of problems) process.stderr.write(`${problem}\n`);
    return good ? 0 : 1;
  },
});

type Shown = { readonly text: string; readonly problems: readonly string[]; readonly good: boolean };

async function watchStatus(show: () => Promise<Shown>, { redraw }: { redraw: boolean }): Promise<number> {
  const stop = listenForStop((exitCode) => process.exit(exitCode));
  let former: string | undefined;
  for (;;) {
    // An agent that starts again is waited for.
    const shown = await show().catch((error: unknown): Shown => {
      return { text: "", problems: [toAgentError(error).message], good: false };
    });
    const text = [shown.text, ...shown.problems].filter((part) => part !== "").join("\n");
    if (redraw) process.stdout.write(`\x1b[H\x1b[2J${text}\n`);
    else if (text !== former) process.stdout.write(`${text}\n`);
    former = text;
    const ended = new AbortController();
    const later = sleep(watchEveryMs, undefined, { signal: ended.signal }).catch(() => undefined);
    const stopped = await Promise.race([stop.requested, later]);
    ended.abort();
    if (stopped !== undefined) return shown.good ? 0 : 1;
  }
}

type Exporter = z.output<typeof statusAnswer>[number];

/** What people see. What boards and clients have chosen moves no cursor. */
function screen(
  exporters: readonly Exporter[],
  flashes: readonly FlashSummary[],
  { drivers: all }: { drivers: boolean },
): string {
  const width = Math.max(0, ...exporters.map(({ exporter }) => exporter.length));
  const lines = exporters.flatMap((exporter) => {
    const { state, online, lease, client, leaseSince } = exporter;
    const since = leaseSince === null ? "" : ` since ${leaseSince.slice(0, 19).replace("T", " ")} UTC`;
    const who = lease === null ? "" : `, lease ${lease}${client === null ? "" : ` of ${client}`}${since}`;
    const reach = online ? "" : ", the controller does not answer";
    return [
      `  ${exporter.exporter.padEnd(width)}  ${state}${who}${reach}`,
      ...driverLines(exporter, all).map((line) => `  ${"".padEnd(width)}    ${line}`),
      ...exporter.transfers.map((transfer) => `  ${"".padEnd(width)}    ${transferLine(transfer)}`),
      ...exporter.flashing.map((flash) => `  ${"".padEnd(width)}    ${flashingLine(flash)}`),
    ];
  });
  const last = flashes.slice(0, mostFlashes).map(flashLine);
  return [...lines, ...(last.length === 0 ? [] : ["", "  last flashes:", ...last])].map(printable).join("\n");
}

function driverLines({ drivers, offline }: Exporter, all: boolean): string[] {
  const missing = offline.map(({ driver, reason }) => `${driver} is offline: ${reason}`);
  if (!all) return missing;
  const width = Math.max(0, ...drivers.map(({ driver }) => driver.length));
  return drivers.map(({ driver, type, offline: reason }) => {
    return `${driver.padEnd(width)}  ${type}${reason === null ? "" : `, offline: ${reason}`}`;
  });
}

/** `storage os.raw.xz to /dev/sda: write, 120.0 MB of 2.0 GB, 6 %, 30 s left` */
function flashingLine(flash: Exporter["flashing"][number]): string {
  const { driver, image, target, step, movedBytes, sizeBytes, remainingSeconds } = flash;
  const where = target === null ? "" : ` to ${target}`;
  const left = remainingSeconds === null ? "" : `, ${estimateText(remainingSeconds)} left`;
  const far = movedBytes === 0 && sizeBytes === null ? "" : `, ${amount(movedBytes, sizeBytes)}${left}`;
  return `${driver} ${image ?? "a stream"}${where}: ${step}${far}`;
}

/** In whole seconds, as an estimate is no better. */
function estimateText(seconds: number): string {
  return seconds < 60 ? `${seconds} s` : durationText(seconds * 1_000);
}

/** `4.2 MB of 8.4 MB, 50 %` */
function amount(movedBytes: number, sizeBytes: number | null): string {
  const of = sizeBytes === null ? "" : ` of ${sizeText(sizeBytes)}`;
  const percent = sizeBytes ? `, ${Math.floor((movedBytes / sizeBytes) * 100)} %` : "";
  return `${sizeText(movedBytes)}${of}${percent}`;
}

function transferLine(transfer: Exporter["transfers"][number]): string {
  const { protocol, peer, name, direction, sizeBytes, movedBytes, seconds } = transfer;
  const way = direction === "to-board" ? "to" : "from";
  return `${protocol} ${name} ${way} ${peer}: ${amount(movedBytes, sizeBytes)} in ${seconds.toFixed(1)} s`;
}

function flashLine({ exporter, verdict, startedAt, durationMs, image, target, failure }: FlashSummary): string {
  const took = durationMs === null ? "" : ` in ${durationText(durationMs)}`;
  const why = failure === null ? "" : ` (${failure})`;
  const what = `${image ?? "a stream"}${target === null ? "" : ` to ${target}`}`;
  return `  ${startedAt.slice(0, 19).replace("T", " ")} UTC  ${exporter}  ${verdict}${took}  ${what}${why}`;
}

function read({ pid, answer, error }: AgentAnswer) {
  try {
    if (error !== undefined) throw error;
    return { exporters: statusAnswer.parse(answer).map((exporter) => ({ pid, ...exporter })), problem: undefined };
  } catch (thrown) {
    return { exporters: [], problem: `agent ${pid}: ${toAgentError(thrown).message}` };
  }
}
