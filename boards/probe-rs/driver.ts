import { createWriteStream } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Transform } from "node:stream";
import { pipeline } from "node:stream/promises";
import * as z from "zod";
import { defineDriver, type Call } from "../../agent/driver/driver.ts";
import { AgentError, DeviceOffline } from "../../agent/driver/errors.ts";
import * as lax from "../../agent/driver/lax.ts";
import type { ResourceHandle } from "../../agent/driver/resource.ts";
import { findProgram, runProgram } from "../../agent/sys/program.ts";
import { Turns } from "../power/turns.ts";
import { probeRs } from "./interface.ts";
import { environment, hexWords, problemOf } from "./protocol.ts";

/** What a client takes in one answer is 4 MiB, with something around each word. */
const mostOutputBytes = 1024 * 1024;
/** Of what a command that failed has to say. */
const loggedCharacters = 4_096;
/** No microcontroller has that much flash; debug information is what makes files large. */
const mostFileBytes = 1024 * 1024 * 1024;

const config = z.strictObject({
  probe: z
    .string()
    .regex(/^[0-9a-fA-F]{4}:[0-9a-fA-F]{4}(-\d+)?(:[^:\s]+)?$/, "must be VID:PID or VID:PID:SERIAL")
    .nullish()
    .describe("which probe, as VID:PID or VID:PID:SERIAL, if there are several"),
  probe_rs_path: z.string().min(1).nullish().describe("the probe-rs program; default is the one of PATH"),
  chip: z.string().min(1).nullish().describe("name of the target, such as nRF52840_xxAA"),
  protocol: z
    .string()
    .toLowerCase()
    .pipe(z.enum(["swd", "jtag"], { error: "must be swd or jtag" }))
    .nullish(),
  connect_under_reset: lax.boolean().prefault(false).describe("hold the target's reset line while attaching"),
  speed: lax.int(1, 1_000_000).nullish().describe("of the protocol, in kHz"),
  timeout: lax.number().pipe(z.number().positive().max(86_400)).prefault(900).describe("seconds for one command"),
  strict: lax
    .boolean()
    .prefault(false)
    .describe("a command that fails is an error for the client; as Python has it, its answer is an empty text"),
});

const hint = "cargo install probe-rs-tools --locked";

export default defineDriver({
  types: ["jumpstarter_driver_probe_rs.driver.ProbeRs"],
  summary: "A debug probe (SWD, JTAG): reset, erase, flash and read a microcontroller with probe-rs.",
  implements: probeRs,
  config,
  needs: ({ probe_rs_path }) => ({ programs: [probe_rs_path ?? "probe-rs"], rights: ["usb", "hid"] }),
  open({ config: { probe_rs_path, timeout, strict, ...settings }, log, ...context }) {
    const name = probe_rs_path ?? "probe-rs";
    const program = findProgram(name);
    if (program === undefined) throw new DeviceOffline(`there is no ${name}`, { hint });
    const env = environment(settings, process.env);
    // A probe serves one program at a time.
    const turns = context.sharedOnHost(`probe-rs ${settings.probe ?? ""}`, () => new Turns());

    /** @throws AgentError E_FAILED with what it has to say, E_TIMEOUT */
    const run = ({ signal }: Call, ...words: string[]): Promise<string> =>
      turns.take(signal, async () => {
        const options = { env, signal, timeoutMs: timeout * 1_000, mostOutputBytes };
        const { code, signal: killer, stdout, stderr } = await runProgram([program, ...words], options);
        if (code === 0) return stdout;
        const said = stderr.trim().slice(-loggedCharacters);
        log.error(`probe-rs ${words[0]} failed (${killer ?? `exit ${code}`}): ${said}`);
        throw new CommandFailed(`probe-rs ${words[0]}: ${problemOf(said)}`);
      });

    /** The client knows a failure by an empty answer. */
    const tell = async (output: Promise<string>): Promise<string> => {
      try {
        return await output;
      } catch (error) {
        if (!strict && error instanceof CommandFailed) return "";
        throw error;
      }
    };

    const download = async (call: Call, handle: ResourceHandle): Promise<string> => {
      const folder = await mkdtemp(join(tmpdir(), "probe-rs-"));
      try {
        const file = join(folder, "firmware");
        const source = await call.source(handle);
        await pipeline(source, atMost(mostFileBytes), createWriteStream(file), { signal: call.signal });
        return await run(call, "download", file);
      } finally {
        await rm(folder, { recursive: true, force: true });
      }
    };

    return {
      methods: {
        info: (call) => tell(run(call, "info")),
        reset_target: (call) => tell(run(call, "reset")),
        erase: (call) => tell(run(call, "erase")),
        download: (call, handle) => tell(download(call, handle)),
        // There is no empty answer that a client could read.
        read: async (call, width, address, words) => hexWords(await run(call, "read", width, address, words)),
      },
    };
  },
});

class CommandFailed extends AgentError {
  constructor(message: string) {
    super("E_FAILED", message);
  }
}

function atMost(bytes: number): Transform {
  let size = 0;
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      size += chunk.length;
      if (size <= bytes) done(null, chunk);
      else done(new AgentError("E_LIMIT", `the file is longer than ${bytes} bytes`));
    },
  });
}
