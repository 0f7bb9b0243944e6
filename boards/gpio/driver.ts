import type { Call, Finding, OpenContext, OpenDriver, Suggestion } from "../../agent/driver/driver.ts";
import { defineDriver } from "../../agent/driver/driver.ts";
import { AgentError, toAgentError } from "../../agent/driver/errors.ts";
import { unsupported } from "../../agent/driver/interface.ts";
import { inputConfig, outputConfig, powerConfig, type InputConfig, type OutputConfig } from "./config.ts";
import { findLine, linesOf, openChips, systemRoots, type Wanted } from "./find.ts";
import { digitalInput, digitalOutput, gpioPower } from "./interface.ts";
import { openInput, openOutput, type InputLine } from "./transport.ts";

/** Longer waits do not fit into a timer, and nobody is there to see their end. */
const longestTimerMs = 2 ** 31 - 1;

/**
 * When a line is driven: Python builds its drivers anew for each lease, and that drives every output to its initial value. Here a driver
 * lives longer than a lease. It takes the line as it is, so that an agent that starts switches nothing; `initial_value` is driven
 * when a lease begins, where Python does it, and with `keep` not at all. When the line is let go, most chips keep its level.
 */
export async function openOutputDriver({ config, log }: Pick<OpenContext<OutputConfig>, "config" | "log">) {
  const initial = config.initial_value;
  const line = await openOutput(
    config,
    { activeLow: config.active_low, bias: config.bias, drive: config.drive },
    systemRoots,
  );
  const called = `line ${line.offset}${line.name === undefined ? "" : ` (${line.name})`}`;
  const set = async (active: boolean) => {
    await line.setActive(active);
    const reads = (await line.isActive()) ? "active" : "inactive";
    log.info(`${called} ${active ? "on" : "off"}() -> pin reads: ${reads}`);
  };
  return {
    methods: {
      on: () => set(true),
      off: () => set(false),
      read_pin: async () => ((await line.isActive()) ? (1 as const) : (0 as const)),
    },
    async reset() {
      if (config.keep || initial === undefined) return;
      await line.setActive(initial);
      log.debug(`${called} is ${initial ? "active" : "inactive"} as the lease begins`);
    },
    check: () => line.check(),
    close: () => line.close(),
  };
}

export async function openPowerDriver(context: Parameters<typeof openOutputDriver>[0]) {
  const output = await openOutputDriver(context);
  return { ...output, methods: { ...output.methods, read: unsupported("a GPIO line has no meter") } };
}

/** @param silentTimeouts a wait that ends without its edge is no error */
export async function openInputDriver(
  { config }: Pick<OpenContext<InputConfig>, "config">,
  { silentTimeouts = false } = {},
): Promise<OpenDriver<typeof digitalInput>> {
  const wiring = { activeLow: config.active_low, bias: config.bias, debounceMs: config.debounce_ms };
  const line = await openInput(config, wiring, systemRoots);
  const wait = async (call: Call, options: WaitOptions) => {
    const happened = await waitFor(line, call.signal, options);
    if (!happened && !silentTimeouts)
      throw new AgentError("E_TIMEOUT", `Timed out waiting for line ${line.offset} edge event`);
  };
  return {
    methods: {
      read_pin: async () => ((await line.isActive()) ? 1 : 0),
      wait_for_active: (call, timeoutS) => wait(call, { rising: true, orAlready: true, timeoutS }),
      wait_for_inactive: (call, timeoutS) => wait(call, { rising: false, orAlready: true, timeoutS }),
      wait_for_edge: (call, edge, timeoutS) => wait(call, { rising: edge === "rising", orAlready: false, timeoutS }),
      watch: ({ signal }) => watch(line, signal),
    },
    check: () => line.check(),
    close: () => line.close(),
  };
}

interface WaitOptions {
  readonly rising: boolean;
  /** The level that follows such an edge is enough. */
  readonly orAlready: boolean;
  readonly timeoutS: number | null | undefined;
}

/** @returns false when the time is over */
function waitFor(line: InputLine, signal: AbortSignal, { rising, orAlready, timeoutS }: WaitOptions): Promise<boolean> {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const over = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", cancel);
      stop();
    };
    const end = (happened: boolean) => {
      over();
      resolve(happened);
    };
    const fail = (error: Error) => {
      over();
      reject(error);
    };
    const cancel = () => fail(signal.reason as Error);
    const stop = line.edges.listen((edge) => {
      if (edge.rising === rising) end(true);
    }, fail);
    // None and 0 wait for ever, as in Python.
    const waitMs = timeoutS ? timeoutS * 1_000 : Infinity;
    const timer = waitMs > longestTimerMs ? undefined : setTimeout(() => end(false), Math.max(waitMs, 0));
    signal.addEventListener("abort", cancel);
    // Looked at after listening has begun, so that no edge falls between.
    if (orAlready) {
      line.isActive().then((active) => {
        if (active === rising) end(true);
      }, fail);
    }
  });
}

/** Edges that nobody takes are kept up to this, then the oldest go. */
const mostWaiting = 10_000;

async function* watch(line: InputLine, signal: AbortSignal) {
  const waiting: { rising: boolean; timestampNs: bigint; missed: number }[] = [];
  let lost: Error | undefined;
  let dropped = 0;
  let wake = () => {};
  const onAbort = () => wake();
  const stop = line.edges.listen(
    (edge) => {
      if (waiting.length >= mostWaiting) dropped += 1 + (waiting.shift()?.missed ?? 0);
      waiting.push(edge);
      wake();
    },
    (error) => {
      lost = error;
      wake();
    },
  );
  signal.addEventListener("abort", onAbort);
  const item = (active: boolean, edge: "rising" | "falling" | null, timestampNs: bigint, missed: number) => ({
    level: active ? (1 as const) : (0 as const),
    edge,
    timestamp_ns: Number(timestampNs),
    time_s: Date.now() / 1_000 - Number(process.hrtime.bigint() - timestampNs) / 1e9,
    missed,
  });
  try {
    yield item(await line.isActive(), null, process.hrtime.bigint(), 0);
    for (;;) {
      const edge = waiting.shift();
      if (edge !== undefined) {
        const missed = edge.missed + dropped;
        dropped = 0;
        yield item(edge.rising, edge.rising ? "rising" : "falling", edge.timestampNs, missed);
        continue;
      }
      signal.throwIfAborted();
      if (lost !== undefined) throw lost;
      await new Promise<void>((resolve) => (wake = resolve));
    }
  } finally {
    signal.removeEventListener("abort", onAbort);
    stop();
  }
}

/** What a configuration means now, and who has it. */
export async function inspectLine(wanted: Wanted): Promise<readonly Finding[]> {
  try {
    const { chip, line, description } = await findLine(wanted, systemRoots);
    await chip.close();
    const user = line.used ? `, used by '${line.consumer}'` : "";
    const nodes = [`/dev/${chip.info.name}`];
    return [{ ok: true, text: `${description}, ${line.direction}${user}`, nodes }];
  } catch (error) {
    const { message, hint } = toAgentError(error);
    return [{ ok: false, text: message, ...(hint === undefined ? {} : { hint }) }];
  }
}

/** Lines that say by their names that they switch power; any other line could be anything. */
async function suggestPower(): Promise<Suggestion[]> {
  const suggestions: Suggestion[] = [];
  for (const chip of await openChips(systemRoots, () => {})) {
    for (const { name, offset, used } of await linesOf(chip)) {
      if (used || !/relay|power|pwr/i.test(name)) continue;
      suggestions.push({
        name: name.toLowerCase().replaceAll(/[^a-z0-9]+/g, "-"),
        entry: {
          type: "jumpstarter_driver_gpiod.driver.PowerSwitch",
          config: { device: chip.info.label, line: offset },
        },
        why: `line ${offset} (${name}) of ${chip.info.name} [${chip.info.label}]`,
      });
    }
    await chip.close();
  }
  return suggestions;
}

export const output = defineDriver({
  types: ["jumpstarter_driver_gpiod.driver.DigitalOutput"],
  summary: "A GPIO line that is driven.",
  implements: digitalOutput,
  hotPlugged: true,
  config: outputConfig,
  open: (context) => openOutputDriver(context),
  needs: () => ({ rights: ["gpio"] }),
  inspect: inspectLine,
});

export const powerSwitch = defineDriver({
  types: ["jumpstarter_driver_gpiod.driver.PowerSwitch"],
  summary: "Power switched by a GPIO line.",
  implements: gpioPower,
  hotPlugged: true,
  config: powerConfig,
  open: (context) => openPowerDriver(context),
  needs: () => ({ rights: ["gpio"] }),
  inspect: inspectLine,
  suggest: suggestPower,
});

export const input = defineDriver({
  types: ["jumpstarter_driver_gpiod.driver.DigitalInput"],
  summary: "A GPIO line that is watched.",
  implements: digitalInput,
  hotPlugged: true,
  config: inputConfig,
  open: (context) => openInputDriver(context),
  needs: () => ({ rights: ["gpio"] }),
  inspect: inspectLine,
});
