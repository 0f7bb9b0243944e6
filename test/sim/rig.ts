import { createHash } from "node:crypto";
import { createWriteStream } from "node:fs";
import { Duplex } from "node:stream";
import { pipeline } from "node:stream/promises";
import * as z from "zod";
import composite from "../../boards/composite/driver.ts";
import { createCatalog, type Catalog } from "../../agent/driver/catalog.ts";
import { defineDriver, type AnyDriver, type Call } from "../../agent/driver/driver.ts";
import { AgentError } from "../../agent/driver/errors.ts";
import { byteStream, defineInterface, streaming, unary, unsupported } from "../../agent/driver/interface.ts";
import { compositeType } from "../../agent/driver/plan.ts";
import { resourceHandle } from "../../agent/driver/resource.ts";

/** What the test drivers are doing right now, and have done. */
export interface RigState {
  running: number;
  aborted: number;
  openStreams: number;
  /** Bytes the sink streams have taken. */
  taken: number;
  /** Chunks the echo streams got, by length. */
  chunks: number[];
  /** Called to let a slow sink take its next chunk; undefined while it is not slow. */
  gate: Promise<void> | undefined;
  /** The device side of the last stream opened. */
  device: Duplex | undefined;
}

const anything = z.unknown();

const rigInterface = defineInterface({
  driverType: "rig",
  client: "rig.client.RigClient",
  methods: {
    echo: unary({ args: [anything.optional()], rest: anything, result: anything }),
    give: unary({ args: [z.string()], result: anything }),
    fail: unary({ args: [z.string()], result: z.null() }),
    add: unary({ args: [z.number(), z.number().default(1)], result: z.number() }),
    wait: unary({ args: [], result: z.null() }),
    missing: unary({ args: [], result: z.null() }),
    read: unary({ args: [resourceHandle], result: z.object({ bytes: z.number(), sha256: z.string() }) }),
    peek: unary({ args: [resourceHandle], result: z.null() }),
    write: unary({ args: [resourceHandle, z.number()], result: z.null() }),
    store: unary({ args: [resourceHandle, z.string()], result: z.null() }),
    ignore: unary({ args: [resourceHandle], result: z.null() }),
    items: streaming({ args: [z.number(), z.string().optional()], item: anything }),
    endless: streaming({ args: [], item: z.number() }),
    stuck: streaming({ args: [], item: z.number() }),
    connect: byteStream(),
    bytes: byteStream(),
    sink: byteStream(),
    source: byteStream(),
    serial: byteStream({ halfCloses: false }),
    refuse: byteStream(),
  },
});

const specials: Record<string, unknown> = {
  get huge() {
    return "x".repeat(5 * 1024 * 1024);
  },
  nan: [NaN, Infinity, -Infinity, { deep: NaN }],
  big: 2n ** 53n + 1n,
  dates: [new Date("2024-01-02T03:04:05Z"), new Date("2024-01-02T03:04:05.060Z")],
  map: new Map<unknown, unknown>([
    [1, "one"],
    [null, { set: new Set([1, 2]) }],
  ]),
  bytes: Buffer.from("grün"),
  "bad bytes": Buffer.from([0x61, 0xff]),
  "cut bytes": Buffer.from([0x61, 0xe2, 0x82]),
  function: () => {},
  "lone surrogate": "a\ud800b",
  deep: Array.from({ length: 200 }).reduce((inner) => [inner], 1),
};

const failures: Record<string, () => Error> = {
  invalid: () => new AgentError("E_INVALID", "no such thing"),
  unsupported: () => new AgentError("E_UNSUPPORTED", ""),
  timeout: () => new AgentError("E_TIMEOUT", "too slow"),
  refused: () => Object.assign(new Error("x"), { errno: -111, code: "ECONNREFUSED" }),
  missing: () => Object.assign(new Error("x"), { errno: -2, code: "ENOENT", path: "/x" }),
  plain: () => new Error("100 % kaputt: ✗\nsecond line"),
  blank: () => new AgentError("E_INVALID", "a name is missing: "),
  long: () => new Error("x".repeat(100_000)),
};

/** Drivers that do what the session's tests need, and a catalog of them. */
export function createRig(): { state: RigState; catalog: Catalog; entry: { type: string } } {
  const state: RigState = {
    running: 0,
    aborted: 0,
    openStreams: 0,
    taken: 0,
    chunks: [],
    gate: undefined,
    device: undefined,
  };

  const track = (stream: Duplex): Duplex => {
    state.openStreams += 1;
    state.device = stream;
    return stream.once("close", () => (state.openStreams -= 1));
  };

  /** Echoes; its own output ends when it is told that no more input comes. */
  const echo = (objectMode: boolean, ends = true) =>
    track(
      new Duplex({
        objectMode,
        read() {},
        write(chunk: Buffer, _encoding, done) {
          state.chunks.push(chunk.length);
          this.push(chunk);
          done();
        },
        final(done) {
          if (ends) this.push(null);
          done();
        },
      }),
    );

  const untilAborted = async (call: Call) => {
    state.running += 1;
    try {
      await new Promise((_resolve, reject) => {
        const stop = () => reject(new AgentError("E_CANCELLED", "given up"));
        if (call.signal.aborted) stop();
        else call.signal.addEventListener("abort", stop, { once: true });
      });
    } finally {
      state.running -= 1;
      state.aborted += 1;
    }
  };

  const rig = defineDriver({
    types: ["rig.driver.Rig"],
    summary: "For tests.",
    implements: rigInterface,
    config: z.object({}),
    open: () => ({
      methods: {
        echo: (_call, first, ...more) => (more.length > 0 ? [first, ...more] : first),
        give: (_call, name) => specials[name],
        fail: (_call, how) => {
          throw (failures[how] as () => Error)();
        },
        add: (_call, a, b) => a + b,
        wait: untilAborted,
        missing: unsupported("this rig has none"),
        read: async (call, handle) => {
          const hash = createHash("sha256");
          let bytes = 0;
          for await (const chunk of await call.source(handle)) {
            bytes += (chunk as Buffer).length;
            hash.update(chunk as Buffer);
          }
          return { bytes, sha256: hash.digest("hex") };
        },
        peek: async (call, handle) => {
          const source = await call.source(handle);
          await new Promise((resolve) => source.once("readable", resolve));
          throw new AgentError("E_IO", "[Errno 28] No space left on device");
        },
        write: async (call, handle, bytes) => {
          const sink = await call.sink(handle);
          await pipeline(pattern(bytes), sink);
        },
        store: async (call, handle, path) => {
          await pipeline(await call.source(handle), createWriteStream(path), { signal: call.signal });
        },
        ignore: () => {},
        async *items(_call, count, failure) {
          for (let n = 0; n < count; n += 1) yield n;
          if (failure !== undefined) throw (failures[failure] as () => Error)();
        },
        async *endless() {
          state.running += 1;
          try {
            for (let n = 0; ; n += 1) {
              state.taken = n;
              yield n;
            }
          } finally {
            state.running -= 1;
          }
        },
        async *stuck(call) {
          yield 1;
          await untilAborted(call);
        },
        connect: () => echo(true),
        bytes: () => echo(false),
        serial: () => echo(false, false),
        sink: () =>
          track(
            new Duplex({
              read() {},
              write(chunk: Buffer, _encoding, done) {
                state.taken += chunk.length;
                if (state.gate === undefined) done();
                else void state.gate.then(() => done());
              },
              final(done) {
                this.push(null);
                done();
              },
            }),
          ),
        source: () => {
          const chunk = Buffer.alloc(64 * 1024, 7);
          return track(
            new Duplex({
              read() {
                state.taken += chunk.length;
                this.push(chunk);
              },
              write: (_chunk, _encoding, done) => done(),
            }),
          );
        },
        refuse: () => {
          throw (failures["refused"] as () => Error)();
        },
      },
    }),
  });
  const load = (driver: unknown) => async () => driver as AnyDriver;
  const catalog = createCatalog(
    new Map([
      ["rig.driver.Rig", load(rig)],
      [compositeType, load(composite)],
    ]),
  );
  return { state, catalog, entry: { type: "rig.driver.Rig" } };
}

/** Bytes that compress well but are not all alike. */
export function* pattern(bytes: number): Generator<Buffer> {
  const block = Buffer.alloc(64 * 1024);
  for (let at = 0, n = 0; at < bytes; at += block.length, n += 1) {
    block.fill(n % 251);
    block.writeUInt32BE(n, 0);
    yield Buffer.from(block.subarray(0, Math.min(block.length, bytes - at)));
  }
}

/** Polls until something is as it should be. @throws Error naming what it waited for */
export async function eventually(
  what: string,
  isSo: () => boolean | Promise<boolean>,
  timeoutMs = 10_000,
): Promise<void> {
  const giveUpAt = performance.now() + timeoutMs;
  while (!(await isSo())) {
    if (performance.now() > giveUpAt) throw new Error(`still not: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
