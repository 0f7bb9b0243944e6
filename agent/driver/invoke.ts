import type { Duplex } from "node:stream";
import * as z from "zod";
import type { Call } from "./driver.ts";
import { AgentError, DeviceOffline, toAgentError } from "./errors.ts";
import type { Method, Unsupported } from "./interface.ts";
import type { LiveDriver } from "./live-driver.ts";

type MethodCode = (call: Call, ...args: unknown[]) => unknown;

/** The words of the Python exporter for the kinds of methods; old clients show them. */
const markers = {
  unary: "marker_drivercall",
  streaming: "marker_streamingdrivercall",
  stream: "marker_streamcall",
} as const;

/** Finds a method's declaration and code. Only declared names exist: `constructor` and friends are not there. */
async function lookUp<K extends Method["kind"]>(driver: LiveDriver, method: string, kind: K) {
  const { methods } = driver.planned.driver.implements;
  if (!Object.hasOwn(methods, method)) throw new AgentError("E_NO_METHOD", `method ${method} not found on driver`);
  const declared = methods[method] as Method;
  const code = ((await driver.opened()).methods as Record<string, MethodCode | Unsupported>)[method];
  if (code === undefined) throw new AgentError("E_NO_METHOD", `method ${method} not found on driver`);
  if (typeof code !== "function") throw new AgentError("E_UNSUPPORTED", code.unsupported);
  const collects = kind === "unary" && declared.kind === "streaming" && declared.collect !== undefined;
  if (declared.kind !== kind && !collects) {
    throw new AgentError("E_NO_METHOD", `method ${method} missing marker ${markers[kind]}`);
  }
  return { declared, code };
}

/** Checks positional arguments; trailing ones may be missing if their schema takes `undefined`. */
function checkArgs(declared: Exclude<Method, { kind: "stream" }>, args: readonly unknown[]): unknown[] {
  const { args: schemas, rest } = declared;
  if (args.length > schemas.length && rest === undefined) {
    throw new AgentError("E_INVALID", `takes ${schemas.length} positional arguments but ${args.length} were given`);
  }
  const checked = schemas.map((schema, index) => checkArg(schema, args[index], index));
  for (let index = schemas.length; index < args.length; index += 1) {
    checked.push(checkArg(rest as z.ZodType, args[index], index));
  }
  return checked;
}

function checkArg(schema: z.ZodType, value: unknown, index: number): unknown {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const text = parsed.error.issues
    .map((issue) => [`argument ${index + 1}`, ...issue.path].join(".") + `: ${issue.message}`)
    .join("; ");
  throw new AgentError("E_INVALID", text, { cause: parsed.error });
}

function checkResult(schema: z.ZodType, value: unknown, method: string): unknown {
  const parsed = schema.safeParse(value === undefined ? null : value);
  if (parsed.success) return parsed.data;
  throw new AgentError("E_RESULT", `${method} answered with a value its interface does not allow`, {
    cause: parsed.error,
  });
}

/** Calls a unary method with checked arguments and checks its result. */
export async function invokeUnary(
  driver: LiveDriver,
  method: string,
  args: readonly unknown[],
  call: Call,
): Promise<unknown> {
  const { declared, code } = await lookUp(driver, method, "unary");
  if (declared.kind === "streaming") {
    const items = code(call, ...checkArgs(declared, args)) as AsyncIterable<unknown>;
    return declared.collect?.(items);
  }
  if (declared.kind !== "unary") throw new AgentError("E_NO_METHOD", `method ${method} not found on driver`);
  const checked = checkArgs(declared, args);
  const named = { path: driver.planned.path, driverType: driver.planned.driver.implements.driverType, method };
  driver.events.tell({ kind: "call", ...named });
  try {
    return checkResult(declared.result, await code(call, ...checked), method);
  } catch (thrown) {
    driver.events.tell({ kind: "failed", ...named, reason: toAgentError(thrown).message });
    // Not every device that goes is told by the kernel.
    if (thrown instanceof DeviceOffline) void driver.look();
    throw thrown;
  }
}

/** Calls a streaming method; leaving the loop early ends the driver's generator. */
export async function* invokeStreaming(
  driver: LiveDriver,
  method: string,
  args: readonly unknown[],
  call: Call,
): AsyncGenerator<unknown, void, undefined> {
  const { declared, code } = await lookUp(driver, method, "streaming");
  if (declared.kind !== "streaming") return;
  for await (const item of code(call, ...checkArgs(declared, args)) as AsyncIterable<unknown>) {
    yield checkResult(declared.item, item, method);
  }
}

/** Opens a byte stream of a driver. Whoever gets it destroys it. */
export async function invokeStream(driver: LiveDriver, method: string, call: Call): Promise<Duplex> {
  const { code } = await lookUp(driver, method, "stream");
  return (await code(call)) as Duplex;
}
