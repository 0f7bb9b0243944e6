import { AgentError, DeviceOffline, isSystemError } from "../../agent/driver/errors.ts";
import type { Bias, Drive, LineEvent, LineSettings, RequestedLine } from "../../agent/sys/gpio.ts";
import { Edges, pollEdges, type Edge, type EdgeSource } from "./edges.ts";
import { findLine, NoCharacterDevice, type Roots, type Wanted } from "./find.ts";
import { openSysfsLine } from "./sysfs.ts";

/** What `gpioinfo` shows as the user of our lines; the same as of the Python exporter. */
const consumer = "jumpstarter-gpiod";

/** How a line is wired. */
export interface Wiring {
  readonly activeLow: boolean;
  readonly bias: Bias;
}

export interface OutputLine {
  readonly description: string;
  /** Its number on the chip. */
  readonly offset: number;
  /** Undefined if it has none. */
  readonly name: string | undefined;
  isActive(): Promise<boolean>;
  /** Makes it an output, and drives it. */
  setActive(active: boolean): Promise<void>;
  /** @throws DeviceOffline when its chip has gone */
  check(): Promise<void>;
  close(): Promise<void>;
}

export type InputLine = Omit<OutputLine, "setActive"> & { readonly edges: Edges };

/**
 * Takes a line without touching it: whatever it is, input or output, high or low, it stays until it is set.
 * @throws DeviceOffline when the line is missing or somebody else has it
 */
export async function openOutput(
  wanted: Wanted,
  wiring: Wiring & { readonly drive: Drive },
  roots: Roots,
): Promise<OutputLine> {
  const { activeLow, bias, drive } = wiring;
  return eitherWay<OutputLine>(
    async () => {
      const line = await take(wanted, { direction: "as_is", activeLow }, roots);
      let output = false;
      return {
        ...line.common,
        setActive: (active) =>
          line.guarded(async () => {
            if (output) return line.requested.setActive(active);
            await line.requested.configure({ direction: "output", activeLow, bias, drive, active });
            output = true;
          }),
      };
    },
    async () => {
      const beyond = bias !== "as_is" || drive !== "push_pull" ? needsCharacterDevice("bias and drive") : undefined;
      return { ...(await openSysfsLine(wanted, activeLow, roots, beyond)), name: undefined };
    },
  );
}

/**
 * Takes a line as an input.
 * @throws DeviceOffline when the line is missing or somebody else has it
 */
export async function openInput(
  wanted: Wanted,
  wiring: Wiring & { readonly debounceMs: number },
  roots: Roots,
): Promise<InputLine> {
  const { activeLow, bias, debounceMs } = wiring;
  const settings = { direction: "input", activeLow, bias, debounceUs: Math.round(debounceMs * 1_000) } as const;
  return eitherWay<InputLine>(
    async () => {
      let line: Taken;
      let interrupts = true;
      try {
        line = await take(wanted, { ...settings, edges: true }, roots);
      } catch (error) {
        // ENXIO: the chip has no interrupts, as many behind I2C and USB.
        if (!isSystemError(error) || error.code !== "ENXIO") throw error;
        interrupts = false;
        line = await take(wanted, { ...settings, edges: false }, roots);
      }
      const { requested, common } = line;
      const edges = new Edges(interrupts ? edgesOf(requested, common.description) : pollEdges(common.isActive));
      return {
        ...common,
        edges,
        close() {
          edges.end(new AgentError("E_CANCELLED", `${common.description} was closed`));
          return common.close();
        },
      };
    },
    async () => {
      const beyond = bias !== "as_is" || debounceMs > 0 ? needsCharacterDevice("bias and debounce_ms") : undefined;
      const line = await openSysfsLine(wanted, activeLow, roots, beyond);
      await line.listen();
      const edges = new Edges(pollEdges(() => line.isActive()));
      return {
        ...line,
        ...{ name: undefined, edges },
        close() {
          edges.end(new AgentError("E_CANCELLED", `${line.description} was closed`));
          return line.close();
        },
      };
    },
  );
}

function needsCharacterDevice(what: string): DeviceOffline {
  return new DeviceOffline(`${what} need the GPIO character device, which this kernel has not`);
}

/** sysfs only where there is no character device for the chip, or one too old for us. */
async function eitherWay<T>(modern: () => Promise<T>, legacy: () => Promise<T>): Promise<T> {
  try {
    return await modern();
  } catch (missing) {
    if (!(missing instanceof NoCharacterDevice)) throw missing;
    try {
      return await legacy();
    } catch (error) {
      throw error instanceof NoCharacterDevice ? missing : error;
    }
  }
}

type Taken = Awaited<ReturnType<typeof take>>;

async function take(wanted: Wanted, settings: LineSettings, roots: Roots) {
  const { chip, line, description } = await findLine(wanted, roots);
  let requested: RequestedLine;
  try {
    requested = await chip.request(line.offset, settings, consumer);
  } catch (error) {
    const holder = await chip.lineInfo(line.offset).catch(() => undefined);
    await chip.close();
    throw explain(error, description, holder?.consumer);
  }
  const guarded = async <T>(work: () => Promise<T>): Promise<T> => {
    try {
      return await work();
    } catch (error) {
      throw explain(error, description);
    }
  };
  const common = {
    description,
    offset: line.offset,
    name: line.name === "" ? undefined : line.name,
    isActive: () => guarded(() => requested.isActive()),
    check: () => guarded(() => chip.check()),
    async close() {
      await requested.close();
      await chip.close();
    },
  };
  return { common, requested, guarded };
}

function explain(error: unknown, description: string, holder?: string): unknown {
  if (!isSystemError(error)) return error;
  if (error.code === "EBUSY") {
    const by = holder === undefined || holder === "" ? "somebody who does not tell its name" : `'${holder}'`;
    return new DeviceOffline(`${description} is in use by ${by}`, { cause: error });
  }
  if (error.code === "ENODEV") return new DeviceOffline(`${description} has gone with its chip`, { cause: error });
  if (error.code === "ENOTSUP" || error.code === "EOPNOTSUPP") {
    return new AgentError(
      "E_UNSUPPORTED",
      `${description}: its chip cannot do what bias, drive or debounce_ms ask for`,
      {
        cause: error,
      },
    );
  }
  return error;
}

function edgesOf(line: RequestedLine, description: string): EdgeSource {
  return (onEdges, onLost) => {
    let last: number | undefined;
    try {
      return line.listen(
        (events) =>
          onEdges(
            events.map((event): Edge => {
              const missed = missedBetween(last, event);
              last = event.lineSequence;
              return { rising: event.rising, timestampNs: event.timestampNs, missed };
            }),
          ),
        (error) => onLost(explain(error, description) as Error),
      );
    } catch (error) {
      throw explain(error, description);
    }
  };
}

/** Sequence numbers are 32 bits wide. */
function missedBetween(last: number | undefined, { lineSequence }: LineEvent): number {
  return last === undefined ? 0 : (lineSequence - last - 1) >>> 0;
}
