/** Calls and streams of drivers that another process runs: they go there and come back as they are. */
import type { Bridge } from "../driver/bridge.ts";
import type { Cancellable } from "../driver/driver.ts";
import { DeviceOffline, toAgentError } from "../driver/errors.ts";
import type { LiveDriver } from "../driver/live-driver.ts";
import type { Raw, Service } from "./exporter-service.ts";
import { resourceBegins, streamBegins } from "./observed.ts";
import { passStream, type Passed } from "./pass-stream.ts";
import type { RpcCall } from "./rpc-call.ts";

interface Request {
  readonly method: string;
  readonly args: readonly unknown[];
}

export async function bridgedCall(
  driver: LiveDriver,
  bridge: Bridge,
  request: Raw<Request>,
  caller: Cancellable,
): Promise<Uint8Array> {
  const named = { path: driver.planned.path, driverType: bridgedType, method: request.method };
  driver.events.tell({ kind: "call", ...named });
  try {
    await driver.opened();
    return await bridge.call(request.bytes, caller);
  } catch (thrown) {
    driver.events.tell({ kind: "failed", ...named, reason: toAgentError(thrown).message });
    throw await looked(driver, thrown);
  }
}

export async function* bridgedStreamingCall(
  driver: LiveDriver,
  bridge: Bridge,
  request: Raw<Request>,
  caller: Cancellable,
): AsyncGenerator<Uint8Array, void, undefined> {
  try {
    await driver.opened();
    yield* bridge.streamingCall(request.bytes, caller);
  } catch (thrown) {
    throw await looked(driver, thrown);
  }
}

export type BridgedRequest =
  | { readonly kind: "driver"; readonly uuid: string; readonly method: string }
  | { readonly kind: "resource"; readonly uuid: string; readonly x_jmp_content_encoding: string | null };

/** Joins a client's stream with one of the other process, whatever that is for. */
export async function serveBridged(
  service: Service,
  rpc: RpcCall,
  driver: LiveDriver,
  bridge: Bridge,
  request: BridgedRequest,
): Promise<void> {
  const passed: Passed = { receivedBytes: 0, sentBytes: 0 };
  const streamEnded = request.kind === "driver" ? streamBegins(service, driver, request.method) : undefined;
  const resourceEnded = request.kind === "resource" ? resourceBegins(service, passed) : undefined;
  try {
    await driver.opened();
    const bridged = await bridge.stream(request, rpc);
    rpc.sendMetadata(Object.fromEntries(bridged.metadata));
    await passStream(rpc.stream, bridged, passed);
    streamEnded?.(passed);
    resourceEnded?.();
  } catch (thrown) {
    const error = await looked(driver, thrown);
    streamEnded?.(passed, error);
    resourceEnded?.(error);
    throw error;
  }
}

/** What a process runs that is not ours has a kind that only it knows. */
const bridgedType = "other";

/** A process that has gone is looked at before its caller can call again. */
async function looked(driver: LiveDriver, thrown: unknown): Promise<unknown> {
  if (thrown instanceof DeviceOffline) await driver.look();
  return thrown;
}
