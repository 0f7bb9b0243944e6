import type { Duplex, Readable, Writable } from "node:stream";
import type * as z from "zod";
import { ExporterServiceDefinition } from "../../proto/gen/jumpstarter/v1/jumpstarter.ts";
import { AgentError } from "../driver/errors.ts";
import type { Calls, Interface } from "../driver/interface.ts";
import type { ResourceHandle } from "../driver/resource.ts";
import { fromWire, toWire } from "../stream/value.ts";
import type { Channel } from "./channel.ts";
import { clientLabel, type ReportedNode } from "./report.ts";
import { rpcMethod } from "./rpc-method.ts";
import { lendSink, lendSource, type LendOptions } from "./resources.ts";
import { openStream } from "./stream.ts";

const driverCall = rpcMethod(ExporterServiceDefinition, "driverCall");
const streamingDriverCall = rpcMethod(ExporterServiceDefinition, "streamingDriverCall");

export interface RemoteCallOptions {
  readonly signal?: AbortSignal | undefined;
}

/** One driver of a connected exporter, at one place of its tree. */
export class RemoteNode {
  readonly name: string;
  /** Dotted path from the root; empty for the root itself. */
  readonly path: string;
  readonly uuid: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly description: string | undefined;
  readonly methodsDescription: Readonly<Record<string, string>>;
  readonly children: ReadonlyMap<string, RemoteNode>;
  readonly #channel: Channel;

  constructor(node: ReportedNode, channel: Channel) {
    const { report } = node;
    this.name = node.name;
    this.path = node.path;
    this.uuid = report.uuid;
    this.labels = report.labels;
    this.description = report.description || undefined;
    this.methodsDescription = report.methodsDescription;
    this.#channel = channel;
    this.children = new Map([...node.children].map(([name, child]) => [name, new RemoteNode(child, channel)]));
  }

  /** Import path of the Python client class; tells what kind of driver this is. */
  get clientClass(): string {
    return this.labels[clientLabel] ?? "";
  }

  /** A descendant by its dotted path from here; the empty path is this node. */
  find(path: string): RemoteNode | undefined {
    if (path === "") return this;
    return path.split(".").reduce<RemoteNode | undefined>((node, name) => node?.children.get(name), this);
  }

  /** Typed calls, as `wanted` declares them. Results are checked against its schemas; arguments are the exporter's to check. */
  as<I extends Interface>(wanted: I, options: RemoteCallOptions = {}): Calls<I> {
    const calls: Record<string, (...args: unknown[]) => unknown> = {};
    for (const [name, method] of Object.entries(wanted.methods)) {
      if (method.kind === "unary") {
        calls[name] = async (...args) => this.#check(method.result, await this.call(name, args, options), name);
      } else if (method.kind === "streaming") {
        const items = this.#checkEach(method.item, name);
        calls[name] = (...args) => items(this.streamingCall(name, args, options));
      } else {
        calls[name] = () => this.stream(name, { ...options, endsWithReason: !method.halfCloses });
      }
    }
    return calls as Calls<I>;
  }

  /** A unary call. @returns the decoded Value. @throws AgentError with the exporter's text. */
  async call(method: string, args: readonly unknown[] = [], { signal }: RemoteCallOptions = {}): Promise<unknown> {
    const request = { uuid: this.uuid, method, args: wireArgs(args) };
    const answer = await this.#channel.unary(driverCall, request, {
      what: this.#what(method),
      signal,
    });
    return fromWire(answer.result);
  }

  /** A call answered by any number of items. Leaving the loop early cancels it. */
  async *streamingCall(
    method: string,
    args: readonly unknown[] = [],
    { signal }: RemoteCallOptions = {},
  ): AsyncGenerator<unknown, void, undefined> {
    const request = { uuid: this.uuid, method, args: wireArgs(args) };
    const options = { what: this.#what(method), signal };
    for await (const { result } of this.#channel.serverStream(streamingDriverCall, request, options)) {
      yield fromWire(result);
    }
  }

  /** A byte stream of the driver; one chunk is one frame. Whoever gets it destroys it. */
  async stream(
    method = "connect",
    { signal, endsWithReason }: RemoteCallOptions & { readonly endsWithReason?: boolean } = {},
  ): Promise<Duplex> {
    const request = { kind: "driver", uuid: this.uuid, method };
    return (await openStream(this.#channel, request, { what: this.#what(method), signal, endsWithReason })).stream;
  }

  /** Lends `source` for one call that reads it; see {@link lendSource}. */
  async lendSource<T>(
    source: Readable,
    use: (handle: ResourceHandle) => Promise<T>,
    options: LendOptions = {},
  ): Promise<T> {
    return await lendSource(this.#channel, this.uuid, source, use, options);
  }

  /** Lends `sink` for one call that writes it; see {@link lendSink}. */
  async lendSink<T>(
    sink: Writable,
    use: (handle: ResourceHandle) => Promise<T>,
    options: LendOptions = {},
  ): Promise<T> {
    return await lendSink(this.#channel, this.uuid, sink, use, options);
  }

  #what(method: string): string {
    return this.path === "" ? method : `${this.path}.${method}`;
  }

  #check(schema: z.ZodType, value: unknown, method: string): unknown {
    const parsed = schema.safeParse(value);
    if (parsed.success) return parsed.data;
    throw new AgentError("E_RESULT", `${this.#what(method)} answered with a value its interface does not allow`, {
      cause: parsed.error,
    });
  }

  #checkEach(schema: z.ZodType, method: string) {
    const check = (item: unknown) => this.#check(schema, item, method);
    return async function* (items: AsyncIterable<unknown>): AsyncGenerator<unknown, void, undefined> {
      for await (const item of items) yield check(item);
    };
  }
}

/** Trailing arguments that were left out stay left out: the driver then applies its own defaults. */
function wireArgs(args: readonly unknown[]): unknown[] {
  const last = args.findLastIndex((arg) => arg !== undefined);
  return args.slice(0, last + 1).map(toWire);
}
