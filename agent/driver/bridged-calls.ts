import * as z from "zod";
import {
  DriverCallRequest,
  DriverCallResponse,
  StreamingDriverCallRequest,
  StreamingDriverCallResponse,
} from "../../proto/gen/jumpstarter/v1/jumpstarter.ts";
import { streamOfMessages } from "../stream/message-stream.ts";
import { fromWire, toWire } from "../stream/value.ts";
import type { Bridge } from "./bridge.ts";
import type { Cancellable } from "./driver.ts";
import { AgentError, DeviceOffline } from "./errors.ts";
import type { Calls, Interface } from "./interface.ts";
import type { LiveDriver } from "./live-driver.ts";

/**
 * Typed calls of a driver of ours on one that another process runs. Whether it has these methods shows when they are
 * called; what they answer is checked.
 */
export function bridgedCalls<I extends Interface>(
  driver: LiveDriver,
  bridge: Bridge,
  wanted: I,
  caller: Cancellable,
): Calls<I> {
  const request = (method: string, args: readonly unknown[]) => ({
    uuid: driver.uuid,
    method,
    args: args.slice(0, args.findLastIndex((arg) => arg !== undefined) + 1).map(toWire),
  });
  const check = (schema: z.ZodType, value: unknown, method: string) => {
    const parsed = schema.safeParse(fromWire(value));
    if (parsed.success) return parsed.data;
    const text = `${driver.planned.path}.${method} answered with a value that ${wanted.driverType} does not allow`;
    throw new AgentError("E_RESULT", text, { cause: parsed.error });
  };
  const looked = async (thrown: unknown) => {
    if (thrown instanceof DeviceOffline) await driver.look();
    return thrown;
  };
  const calls: Record<string, (...args: unknown[]) => unknown> = {};
  for (const [method, declared] of Object.entries(wanted.methods)) {
    if (declared.kind === "unary") {
      calls[method] = async (...args) => {
        try {
          await driver.opened();
          const bytes = await bridge.call(DriverCallRequest.encode(request(method, args)).finish(), caller);
          return check(declared.result, DriverCallResponse.decode(bytes).result, method);
        } catch (thrown) {
          throw await looked(thrown);
        }
      };
    } else if (declared.kind === "streaming") {
      calls[method] = async function* (...args) {
        try {
          await driver.opened();
          const message = StreamingDriverCallRequest.encode(request(method, args)).finish();
          for await (const bytes of bridge.streamingCall(message, caller)) {
            yield check(declared.item, StreamingDriverCallResponse.decode(bytes).result, method);
          }
        } catch (thrown) {
          throw await looked(thrown);
        }
      };
    } else {
      calls[method] = async () => {
        try {
          await driver.opened();
          const { stream } = await bridge.stream({ kind: "driver", uuid: driver.uuid, method }, caller);
          return streamOfMessages(stream);
        } catch (thrown) {
          throw await looked(thrown);
        }
      };
    }
  }
  return calls as Calls<I>;
}
