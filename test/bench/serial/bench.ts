import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { RecordReader } from "../../../boards/serial/record/reader.ts";
import { startAgent } from "../../sim/agent.ts";
import { cpuSecondsOf } from "../exporters.ts";
import { figure } from "../statistics.ts";
import { output } from "./output.ts";

/** 3 Mbaud, 8N1: ten bits a byte. */
const bytesPerSecond = 300_000;
const ports = 8;
/** The record's last pieces are written down by then. */
const settleMs = 1_500;

/** Records eight boards that print without a pause, and prints a Markdown table. @throws if a byte is missing in a record */
export async function serialBench({ seconds }: { seconds: number }): Promise<void> {
  const closers: (() => unknown)[] = [];
  const life = { after: (close: () => unknown) => void closers.push(close) };
  try {
    const directory = mkdtempSync(join(tmpdir(), "jmp-agent-bench-"));
    life.after(() => rmSync(directory, { recursive: true, force: true }));
    const words = ["--import", "tsx", "test/bench/serial/boards.ts", `${ports}`, `${bytesPerSecond}`, `${seconds}`];
    const boards = spawn(process.execPath, words, { stdio: ["pipe", "pipe", "inherit"] });
    life.after(() => boards.stdin.end());
    const told = createInterface({ input: boards.stdout })[Symbol.asyncIterator]();
    const paths = JSON.parse((await told.next()).value as string) as string[];
    const record = { directory, max_file_bytes: 64 * 1024 * 1024 };
    const agent = await startAgent(
      life,
      Object.fromEntries(
        paths.map((url, port) => [
          `serial${port}`,
          { type: "jumpstarter_driver_pyserial.driver.PySerial", config: { url, baudrate: 3_000_000, record } },
        ]),
      ),
    );
    await sleep(settleMs);
    const before = cpuSecondsOf(agent.pid);
    boards.stdin.write("go\n");
    const done = JSON.parse((await told.next()).value as string) as { seconds: number; heldBack: number };
    const cpu = cpuSecondsOf(agent.pid) - before;
    await sleep(settleMs);
    let lost = 0;
    for (const port of paths.keys()) {
      lost += await missing(join(directory, "test", `serial${port}`), port, bytesPerSecond * seconds);
    }
    console.log(`\n| ${ports} consoles at 3 Mbaud, recorded for ${seconds} s | |\n| --- | ---: |`);
    console.log(`| MB/s, all together | ${figure((ports * bytesPerSecond * seconds) / done.seconds / 1e6)} |`);
    console.log(`| bytes that are not in the record | ${lost} |`);
    console.log(`| bytes that a line without flow control would have lost | ${done.heldBack} |`);
    console.log(`| CPU of the agent, cores | ${figure(cpu / done.seconds)} |`);
    if (lost > 0) throw new Error(`${lost} bytes are missing in the records`);
  } finally {
    for (const close of closers.reverse()) await close();
  }
}

/** How many bytes a record lacks, or has wrong. */
async function missing(folder: string, port: number, wanted: number): Promise<number> {
  const reader = new RecordReader(folder);
  let position = 0;
  try {
    for (let entries = await reader.read(); entries.length > 0; entries = await reader.read()) {
      for (const { kind, payload } of entries) {
        if (kind !== "o") continue;
        if (!output(port, position, payload.length).equals(payload)) return wanted - position;
        position += payload.length;
      }
    }
  } finally {
    await reader.close();
  }
  return Math.abs(wanted - position);
}
