import { bridgedCalls } from "./bridged-calls.ts";
import type { ChildHandle } from "./driver.ts";
import { AgentError } from "./errors.ts";
import type { Calls, Interface } from "./interface.ts";
import { invokeStream, invokeStreaming, invokeUnary } from "./invoke.ts";
import type { LiveDriver, TreeEnvironment } from "./live-driver.ts";

/** Who calls a driver of the same process: a driver above it, or the house. */
export interface LocalCaller {
  readonly environment: TreeEnvironment;
  /** Ends the calls that were not given a signal of their own. */
  readonly signal: AbortSignal;
}

/** Typed calls on a driver of the same process, checked like remote ones. */
export function callsOn<I extends Interface>(
  driver: LiveDriver,
  { environment, signal }: LocalCaller,
  wanted: I,
  options: { signal?: AbortSignal } = {},
): Calls<I> {
  const caller = { signal: options.signal ?? signal };
  if (driver.bridge !== undefined) return bridgedCalls(driver, driver.bridge, wanted, caller);
  const has = driver.planned.driver.implements.methods;
  for (const method of Object.keys(wanted.methods)) {
    if (!Object.hasOwn(has, method)) {
      throw new AgentError(
        "E_CONFIG",
        `${driver.planned.path} (${driver.planned.type}) cannot be used as ${wanted.driverType}: it has no method ${method}`,
      );
    }
  }
  const calls: Record<string, (...args: unknown[]) => unknown> = {};
  for (const [method, { kind }] of Object.entries(wanted.methods)) {
    if (kind === "unary") {
      calls[method] = async (...args) => {
        const { call, done } = environment.beginCall(driver, caller);
        try {
          return await invokeUnary(driver, method, args, call);
        } finally {
          done();
        }
      };
    } else if (kind === "streaming") {
      calls[method] = async function* (...args) {
        const { call, done } = environment.beginCall(driver, caller);
        try {
          yield* invokeStreaming(driver, method, args, call);
        } finally {
          done();
        }
      };
    } else {
      calls[method] = async () => {
        const { call, done } = environment.beginCall(driver, caller);
        try {
          const stream = await invokeStream(driver, method, call);
          return stream.once("close", done);
        } catch (error) {
          done();
          throw error;
        }
      };
    }
  }
  return calls as Calls<I>;
}

/** A driver as its parent's code sees it; what the parent calls ends when the parent is closed. */
export function childHandle(driver: LiveDriver, parent: LocalCaller): ChildHandle {
  return {
    type: driver.planned.type,
    as: (wanted, options) => callsOn(driver, parent, wanted, options),
    child: (name) => {
      const child = driver.children.get(name);
      return child === undefined ? undefined : childHandle(child, parent);
    },
    lend: (source) => {
      if (driver.bridge === undefined) return parent.environment.lend(driver, source);
      throw new AgentError(
        "E_UNSUPPORTED",
        `${driver.planned.path} is run by Python: nothing can be lent to it from here`,
      );
    },
  };
}
