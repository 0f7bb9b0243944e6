import {
  ExporterServiceDefinition,
  type GetStatusResponse,
  type LogStreamResponse,
} from "../../proto/gen/jumpstarter/v1/jumpstarter.ts";
import { AgentError } from "../driver/errors.ts";
import { parseAddress } from "./address.ts";
import { Channel, type CallOptions, type Security } from "./channel.ts";
import { RemoteNode } from "./node.ts";
import { buildTree } from "./report.ts";
import { rpcMethod } from "./rpc-method.ts";

export interface ConnectOptions extends Security {
  /** Path of a unix socket, or `host:port`: what `JUMPSTARTER_HOST` holds. */
  readonly host: string;
  readonly signal?: AbortSignal | undefined;
}

/** A connection to one exporter's session. */
export interface Client {
  readonly root: RemoteNode;
  readonly exporter: {
    readonly uuid: string;
    readonly labels: Readonly<Record<string, string>>;
    readonly motd: string;
  };
  /** A driver by its dotted path, e.g. `flasher.tftp`. */
  find(path: string): RemoteNode | undefined;
  status(options?: { signal?: AbortSignal }): Promise<GetStatusResponse>;
  /** Log records from now on (and those the session still remembers), until the loop is left. */
  logs(options?: { signal?: AbortSignal }): AsyncGenerator<LogStreamResponse, void, undefined>;
  close(): Promise<void>;
}

/**
 * Connects to a session and reads its report.
 * @throws AgentError E_CONNECTION if nobody answers there, E_UNAUTHENTICATED for a wrong passphrase.
 */
export async function connect({ host, signal, ...security }: ConnectOptions): Promise<Client> {
  const channel = new Channel(parseAddress(host), security);
  const options = (what: string, given?: { signal?: AbortSignal }): CallOptions => ({ what, signal: given?.signal });
  try {
    const report = await channel.unary(
      rpcMethod(ExporterServiceDefinition, "getReport"),
      {},
      { what: "GetReport", signal },
    );
    const root = new RemoteNode(buildTree(report.reports), channel);
    return {
      root,
      exporter: { uuid: report.uuid, labels: report.labels, motd: report.motd },
      find: (path) => root.find(path),
      status: (given) =>
        channel.unary(rpcMethod(ExporterServiceDefinition, "getStatus"), {}, options("GetStatus", given)),
      logs: (given) =>
        channel.serverStream(rpcMethod(ExporterServiceDefinition, "logStream"), {}, options("LogStream", given)),
      close: () => channel.close(),
    };
  } catch (thrown) {
    await channel.close();
    if (thrown instanceof AgentError && thrown.code === "E_CONNECTION") {
      throw new AgentError("E_CONNECTION", `no exporter answers at ${host}: ${thrown.message}`, { cause: thrown });
    }
    throw thrown;
  }
}
