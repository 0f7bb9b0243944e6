import { readFileSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { once } from "node:events";
import { join, resolve } from "node:path";
import type { TestContext } from "node:test";
import { freePort, scratch } from "./agent.ts";

/** The double of the Android emulator as a program. */
export interface EmulatorDouble {
  /** For `emulator_path`. */
  readonly program: string;
  readonly consolePort: number;
  readonly adbServerPort: number;
  /** Each start of it. */
  starts(): { words: string[]; adbServerPort: number; pid: number }[];
  /** Has the running one crash. */
  crash(): Promise<void>;
}

export async function emulatorDouble(t: Pick<TestContext, "after">): Promise<EmulatorDouble> {
  const directory = scratch(t);
  const program = join(directory, "emulator");
  const record = join(directory, "starts");
  const script = resolve("test/sim/android-emulator.mjs");
  writeFileSync(record, "");
  writeFileSync(program, `#!/bin/sh\nEMULATOR_RECORD='${record}' exec '${process.execPath}' '${script}' "$@"\n`, {
    mode: 0o755,
  });
  const consolePort = await freePort();
  return {
    program,
    consolePort,
    adbServerPort: await freePort(),
    starts: () =>
      readFileSync(record, "utf8")
        .split("\n")
        .filter(Boolean)
        .map((line) => JSON.parse(line) as { words: string[]; adbServerPort: number; pid: number }),
    async crash() {
      const socket = connect(consolePort, "127.0.0.1")
        .on("error", () => {})
        .resume();
      socket.write("crash\n");
      await once(socket, "close");
    },
  };
}
