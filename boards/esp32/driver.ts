import { setTimeout as sleep } from "node:timers/promises";
import { access, type FileHandle } from "node:fs/promises";
import * as z from "zod";
import { defineDriver, type Call, type Cancellable } from "../../agent/driver/driver.ts";
import { AgentError, DeviceOffline, toAgentError } from "../../agent/driver/errors.ts";
import * as lax from "../../agent/driver/lax.ts";
import { fileIntoStream, openNamelessFile } from "../../agent/stream/files.ts";
import { anySignal } from "../../agent/sys/any-signal.ts";
import { englishEnvironment, lastWords, runProgram } from "../../agent/sys/program.ts";
import { Turns } from "../power/turns.ts";
import { checkPresent, devicePath, isLocal, sharedPort } from "../serial/open.ts";
import { staged } from "../volume/copy.ts";
import { esp32, port } from "./interface.ts";
import {
  chipInfo,
  failureOf,
  majorVersion,
  parseAddress,
  parseRegion,
  percentOf,
  saysVerified,
  wordsFor,
} from "./protocol.ts";

const install = "apt install esptool, or pip install esptool";
const versionTimeoutS = 30;
/** As many attempts as the Python driver makes; each is a reset of the chip. */
const connectAttempts = 7;
const tellEveryPercent = 20;
const lookEveryMs = 500;

export default defineDriver({
  types: ["jumpstarter_driver_esp32.driver.Esp32Flasher"],
  summary: "Flashes and reads Espressif chips through their serial port, with esptool.",
  implements: esp32,
  config: z.strictObject({
    baudrate: lax.int(50, 10_000_000).prefault(115_200).describe("baud rate for the transfer"),
    chip: z.string().default("esp32").describe("ignored, as by the Python driver: esptool finds out"),
    esptool: z.string().min(1).default("esptool").describe("program to start"),
    timeout_seconds: lax
      .number()
      .pipe(z.number().positive().max(86_400))
      .prefault(1_800)
      .describe("how long one operation may take"),
  }),
  needs: ({ esptool }) => ({ programs: [esptool] }),
  open(context) {
    const { baudrate, esptool, timeout_seconds: timeoutS } = context.config;
    const turns = new Turns();
    let words: ((word: string) => string) | undefined;

    /** Where the chip is. Its port is looked for anew at each call. */
    const portOf = async ({ signal }: Call) => {
      const serial = context.children.get("serial");
      if (serial === undefined) throw new AgentError("E_FAILED", "'serial': the driver needs a serial child");
      const status = await serial.as(port, { signal }).status();
      const settings = { baudRate: status.baudrate, disableHupcl: false };
      return { url: status.port, settings, shared: sharedPort(status.port, context) };
    };

    const program = (
      { signal }: Cancellable,
      args: readonly string[],
      timeoutS: number,
      onLine?: (line: string) => void,
    ) =>
      runProgram([esptool, ...args], {
        env: englishEnvironment({ PYTHONUNBUFFERED: "1", COLUMNS: "120" }),
        timeoutMs: timeoutS * 1000,
        late: `${esptool} was not done in ${timeoutS} s`,
        signal,
        install,
        onLine,
      });

    /** One run of esptool, which has the port for itself meanwhile. @returns what it printed */
    const run = (call: Call, options: readonly string[], command: readonly string[]): Promise<string> =>
      turns.take(call.signal, async () => {
        const { url, shared } = await portOf(call);
        if (words === undefined) {
          const major = majorVersion((await program(call, ["version"], versionTimeoutS)).stdout);
          if (major === undefined) throw new DeviceOffline(`${esptool} does not tell its version: it is no esptool`);
          words = wordsFor(major);
        }
        if (isLocal(url)) await checkPresent(url);
        const word = words;
        const [name = "", ...rest] = command;
        call.log.info(`releasing serial port ${url} for esptool ${word(name)}`);
        return shared.lend(call.signal, async () => {
          const device = isLocal(url) ? await devicePath(url) : url;
          const args = ["--port", device, "--baud", `${baudrate}`, "--connect-attempts", `${connectAttempts}`];
          args.push("--before", word("default_reset"), "--after", word("hard_reset"), ...options, word(name), ...rest);
          const { code, stdout, stderr } = await whileThere(device, call.signal, (signal) =>
            program({ signal }, args, timeoutS, progress(call)),
          );
          if (code === 0) return stdout;
          const reason = failureOf(stdout) ?? failureOf(stderr);
          throw new AgentError("E_FAILED", `esptool failed: ${reason ?? lastWords(stderr || stdout)}`);
        });
      });

    /** Sets DTR and RTS one after the other through one opening of the port: each opening would make a glitch of its own. */
    const setLines = (call: Call, steps: readonly (readonly ["dtr" | "rts", boolean] | number)[]): Promise<void> =>
      turns.take(call.signal, async () => {
        const { settings, shared } = await portOf(call);
        const holder = await shared.attach(settings, undefined, call.signal);
        holder.resume();
        try {
          for (const step of steps) {
            if (typeof step === "number") await sleep(step, undefined, { signal: call.signal });
            else await shared.setLine(settings, ...step, call.signal);
          }
        } finally {
          // Also after a call that was cancelled: a chip that is held in reset is no chip.
          if (call.signal.aborted) await shared.setLine(settings, "rts", false, context.signal).catch(() => {});
          holder.destroy();
        }
      });

    return {
      methods: {
        async flash(call, source, target) {
          const address = given(() => parseAddress(target));
          await staged(call, source, async (image, bytes) => {
            const command = ["write_flash", `0x${address.toString(16)}`, pathOf(image)];
            const said = await run(call, [], command);
            if (saysVerified(said)) call.log.info(`${bytes} bytes at 0x${address.toString(16)} are verified`);
            else throw new AgentError("E_FAILED", "esptool has not verified what it wrote");
          });
        },
        async dump(call, target, partition) {
          const { address, bytes } = given(() => parseRegion(partition));
          const image = await openNamelessFile();
          try {
            await run(call, [], ["read_flash", `0x${address.toString(16)}`, `${bytes}`, pathOf(image)]);
            const { size } = await image.stat();
            if (size !== bytes) throw new AgentError("E_FAILED", `esptool has read ${size} of ${bytes} bytes`);
            await fileIntoStream(image, await call.sink(target), { signal: call.signal });
          } finally {
            await image.close();
          }
        },
        async get_chip_info(call) {
          const said = await run(call, ["--no-stub"], ["read_mac"]);
          try {
            return chipInfo(said);
          } catch (error) {
            throw new AgentError("E_FAILED", toAgentError(error).message);
          }
        },
        erase: async (call) => void (await run(call, [], ["erase_flash"])),
        hard_reset: (call) => setLines(call, [["dtr", false], ["rts", true], 100, ["rts", false]]),
        enter_bootloader: (call) =>
          setLines(call, [["dtr", false], ["rts", true], 100, ["dtr", true], ["rts", false], 50, ["dtr", false]]),
      },
    };
  },
});

/**
 * Gives up what is done with a device when that has gone: esptool would wait for it a while.
 * @throws DeviceOffline
 */
async function whileThere<T>(
  device: string,
  signal: AbortSignal,
  use: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const gone = new AbortController();
  const look = () =>
    access(device).catch(() => gone.abort(new DeviceOffline(`serial port ${device} has gone while esptool used it`)));
  const timer = device.startsWith("/") ? setInterval(() => void look(), lookEveryMs) : undefined;
  try {
    return await use(anySignal([signal, gone.signal]));
  } catch (error) {
    throw gone.signal.aborted ? gone.signal.reason : error;
  } finally {
    clearInterval(timer);
  }
}

/** @throws AgentError E_INVALID */
function given<T>(read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw new AgentError("E_INVALID", toAgentError(error).message);
  }
}

/** A file without a name, as a program of this user can open it. */
const pathOf = ({ fd }: FileHandle) => `/proc/${process.pid}/fd/${fd}`;

/** Tells the log how far a transfer is, now and then, and the rest in detail. */
function progress({ log }: Call): (line: string) => void {
  let next = tellEveryPercent;
  return (line) => {
    const percent = percentOf(line);
    if (percent === undefined) return log.debug(line);
    if (percent < next) return;
    next = percent - (percent % tellEveryPercent) + tellEveryPercent;
    log.info(`${line.split(" ", 1)[0]}: ${percent} %`);
  };
}
