import { existsSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { Agent } from "undici";
import * as z from "zod";
import { defineDriver, type Finding } from "../../agent/driver/driver.ts";
import { AgentError, DeviceOffline } from "../../agent/driver/errors.ts";
import * as lax from "../../agent/driver/lax.ts";
import { dial } from "../../agent/stream/dial.ts";
import { findProgram } from "../../agent/sys/program.ts";
import { ustreamer } from "../video/interface.ts";
import { get, requirePicture, type Answer } from "../video/transport.ts";
import { commandLine, isOnline, readState } from "./protocol.ts";
import { Streamer, type Listening } from "./streamer.ts";

/** It answers from memory. */
const answerTimeoutMs = 10_000;
const lookAgainMs = 100;

const optionName = /^[A-Za-z0-9][A-Za-z0-9-]*$/;

const host = "http://localhost";
const name = "ustreamer";
const hint = "apt install ustreamer";

export default defineDriver({
  types: ["jumpstarter_driver_ustreamer.driver.UStreamer"],
  summary: "A camera of this host (V4L2), through the ustreamer program.",
  implements: ustreamer,
  config: z.strictObject({
    executable: z.string().min(1).nullish().describe("the ustreamer program; default is the one of PATH"),
    args: z
      .record(z.string(), z.union([z.string(), z.number(), z.boolean(), z.null()]))
      .refine((args) => Object.keys(args).every((key) => optionName.test(key)), "are names of options, without --")
      .default({})
      .describe("its options without --, such as device: /dev/video0; true for those that take no value"),
    warm_up: lax
      .number()
      .pipe(z.number().min(0).max(600))
      .prefault(5)
      .describe("seconds from its start in which a camera without a picture is waited for"),
  }),
  needs: ({ executable }) => ({ programs: [executable ?? "ustreamer"], rights: ["video"] }),
  inspect: ({ args }): Finding[] => {
    const device = typeof args["device"] === "string" ? args["device"] : "/dev/video0";
    return [inspectCamera(device)];
  },
  open({ config: { executable, args, warm_up }, log }) {
    const program = findProgram(executable ?? "ustreamer");
    if (program === undefined) {
      const where = typeof executable === "string" ? `: ${executable}` : "";
      throw new DeviceOffline(`ustreamer executable not found${where}`, { hint });
    }
    const streamer = new Streamer((socketPath) => [program, ...commandLine(args, socketPath)], log);

    const ask = async (path: "/state" | "/snapshot", { path: socketPath }: Listening, signal: AbortSignal) => {
      const dispatcher = new Agent({ connect: { socketPath } });
      try {
        return await get({ url: new URL(path, host), name, dispatcher, signal, timeoutMs: answerTimeoutMs });
      } finally {
        await dispatcher.destroy();
      }
    };

    /** Waits for the first frame of a camera that has just been opened. @throws DeviceOffline if there is none */
    const shoot = async (signal: AbortSignal): Promise<Answer> => {
      const running = streamer.running();
      for (;;) {
        const listening = await running.listening(signal);
        const answer = await ask("/snapshot", listening, signal).catch((error: unknown) => {
          if (error instanceof AgentError && error.code === "E_DEVICE_OFFLINE") return undefined;
          throw error;
        });
        if (answer !== undefined && isOnline(answer.headers)) return answer;
        if (performance.now() - listening.sinceMs > warm_up * 1_000)
          throw new DeviceOffline("the camera has no signal");
        await sleep(lookAgainMs, undefined, { signal });
      }
    };

    return {
      methods: {
        snapshot: async ({ signal }) => requirePicture(await shoot(signal), name).toString("base64"),
        state: async ({ signal }) => {
          const { body } = await ask("/state", await streamer.running().listening(signal), signal);
          try {
            return readState(body.toString());
          } catch (cause) {
            throw new AgentError("E_INVALID", "ustreamer tells its state in unknown words", { cause });
          }
        },
        stream_path: () => "/stream",
        connect: async ({ signal }) => dial({ path: (await streamer.running().listening(signal)).path }, name, signal),
      },
      // So that the camera is warm when the first call comes.
      reset: () => void streamer.running(),
      release: () => streamer.stop(),
      close: () => streamer.stop(),
    };
  },
});

function inspectCamera(device: string): Finding {
  if (!existsSync(device)) {
    return { ok: false, text: `there is no camera at ${device}`, hint: "plug it in, or set device in args" };
  }
  return { ok: true, text: `camera at ${device}`, nodes: [device] };
}
