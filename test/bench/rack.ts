import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { stringify } from "yaml";
import { startController, type Lab } from "../sim/controller/controller.ts";
import { clientProgram } from "../sim/python-client.ts";
import { memoryMiB, peerVersion, type Side } from "./exporters.ts";
import type { Measure, Size } from "./measures.ts";

/** What starting leaves to do is done then. */
const restMs = 5_000;
const readyMs = 120_000;

/** Two drivers of the common kinds each. */
const drivers = {
  power: { type: "jumpstarter_driver_power.driver.MockPower" },
  serial: { type: "jumpstarter_driver_pyserial.driver.PySerial", config: { url: "loop://" } },
};

/** Memory of idle exporters that a controller could lease: one, many, and what each one more costs. */
export const rack: Measure = async (side, size) => {
  const one = await idleMiB(side, 1);
  const many = await idleMiB(side, size.rackExporters);
  const name = (what: string) => `${what}, PSS, MiB`;
  return [
    { name: name("one idle exporter that can be leased"), value: one },
    { name: name(`${size.rackExporters} of them`), value: many },
    { name: name("each one more"), value: (many - one) / (size.rackExporters - 1) },
  ];
};

/** @returns the memory of all processes of so many exporters: one for all of them, or one and its children for each */
async function idleMiB(side: Side, count: Size["rackExporters"]): Promise<number> {
  const lab = await startController();
  const directory = mkdtempSync(join(tmpdir(), "jmp-agent-bench-"));
  const children: ChildProcess[] = [];
  try {
    const files = Array.from({ length: count }, (_, n) => configure(lab, directory, `board-${n}`));
    children.push(...start(side, directory, files));
    for (let n = 0; n < count; n += 1) await lab.ready(`board-${n}`, readyMs);
    await sleep(restMs);
    return memoryMiB(
      children.map(({ pid }) => pid ?? 0),
      "Pss",
    );
  } finally {
    await Promise.all(children.map(stop));
    await lab.close();
    rmSync(directory, { recursive: true, force: true });
  }
}

function configure(lab: Lab, directory: string, name: string): string {
  lab.addExporter({ name });
  const file = join(directory, `${name}.yaml`);
  writeFileSync(file, stringify(lab.exporterConfig(name, drivers)), { mode: 0o600 });
  return file;
}

function start(side: Side, directory: string, files: readonly string[]): ChildProcess[] {
  const words = files.map((file) => ["--exporter-config", file]);
  const runtime = join(directory, "run");
  mkdirSync(runtime, { mode: 0o700 });
  const env = { ...process.env, XDG_RUNTIME_DIR: runtime, JMP_CLIENT_CONFIG_HOME: directory };
  if (side === "python") {
    const program = clientProgram(peerVersion, "jmp");
    return words.map((each) => spawn(program, ["run", ...each], { stdio: "ignore", detached: true, env }));
  }
  // A program file of its own: the bench is Node too, and shares the pages of one with it.
  const node = join(directory, "node");
  copyFileSync(process.execPath, node);
  return [spawn(node, ["dist/jmp-agent.js", "run", ...words.flat()], { stdio: "ignore", env })];
}

/** The Python exporter forks; its parent hands signals on to the child's group. */
async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, "exit");
  child.kill("SIGTERM");
  await Promise.race([exited, sleep(20_000, undefined, { ref: false })]);
  if (child.exitCode === null && child.signalCode === null) child.kill("SIGKILL");
}
