import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import type { ClientHttp2Stream } from "node:http2";
import { createServer, type AddressInfo, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { DriverCallRequest } from "../../proto/gen/jumpstarter/v1/jumpstarter.ts";
import { freePort } from "../sim/agent.ts";
import { clientProgram, run } from "../sim/python-client.ts";
import { peerVersion, startExporter, type Exporter, type Side } from "./exporters.ts";
import { frames, openWire } from "./wire.ts";

const MiB = 1 << 20;

/** One number of one side; several rounds are reduced to their median. */
export interface Sample {
  readonly name: string;
  readonly value: number;
}

/** How much is moved: the full size for the figures of the docs, the quick one to see that it works. */
export interface Size {
  readonly streamMiB: number;
  readonly smallFrameMiB: number;
  readonly flashMiB: number;
  readonly calls: number;
  readonly rackExporters: number;
}

export const fullSize: Size = {
  streamMiB: 1024,
  smallFrameMiB: 64,
  flashMiB: 512,
  calls: 6000,
  rackExporters: 32,
};
export const quickSize: Size = {
  streamMiB: 64,
  smallFrameMiB: 4,
  flashMiB: 32,
  calls: 500,
  rackExporters: 4,
};

/** What starting leaves to do is done then: it counts for the start, not for what is measured after it. */
const restMs = 3_000;

export type Measure = (side: Side, size: Size) => Promise<Sample[]>;

const mockPower = { type: "jumpstarter_driver_power.driver.MockPower" };

/** Twelve drivers of the common kinds. */
function aDozen(directory: string): Record<string, unknown> {
  const storage = { scheme: "fs", kwargs: { root: join(directory, "storage") } };
  return {
    power: mockPower,
    power2: mockPower,
    echo: { type: "jumpstarter_driver_network.driver.EchoNetwork" },
    tcp: { type: "jumpstarter_driver_network.driver.TcpNetwork", config: { host: "127.0.0.1", port: 9 } },
    udp: { type: "jumpstarter_driver_network.driver.UdpNetwork", config: { host: "127.0.0.1", port: 9 } },
    serial: { type: "jumpstarter_driver_pyserial.driver.PySerial", config: { url: "loop://" } },
    serial2: { type: "jumpstarter_driver_pyserial.driver.PySerial", config: { url: "loop://" } },
    storage: { type: "jumpstarter_driver_opendal.driver.Opendal", config: storage },
    flasher: { type: "jumpstarter_driver_opendal.driver.MockFlasher" },
    mux: { type: "jumpstarter_driver_opendal.driver.MockStorageMux" },
    shell: { type: "jumpstarter_driver_shell.driver.Shell", config: { methods: { ok: "true" } } },
    uboot: {
      type: "jumpstarter_driver_uboot.driver.UbootConsole",
      children: { power: { ref: "power" }, serial: { ref: "serial" } },
    },
  };
}

async function withDirectory<T>(work: (directory: string) => Promise<T>): Promise<T> {
  const directory = mkdtempSync(join(tmpdir(), "jmp-agent-bench-"));
  try {
    return await work(directory);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

async function withExporter<T>(
  side: Side,
  exported: Record<string, unknown>,
  work: (exporter: Exporter) => Promise<T>,
  options: { alone?: boolean } = {},
): Promise<T> {
  const exporter = await startExporter(side, exported, options);
  try {
    await sleep(restMs);
    return await work(exporter);
  } finally {
    await exporter.stop();
  }
}

/** Spawn to first report, and the memory of an idle exporter some seconds later. */
export const start: Measure = (side) =>
  withDirectory(async (directory) => {
    const started = await startExporter(side, aDozen(directory));
    await started.stop();
    return withExporter(
      side,
      aDozen(directory),
      (exporter) =>
        Promise.resolve([
          { name: "start to first GetReport, ms", value: started.startMs },
          { name: "idle memory of all processes, PSS, MiB", value: exporter.memoryMiB("Pss") },
          { name: "the same without pages that others share, USS, MiB", value: exporter.memoryMiB("Private") },
        ]),
      { alone: true },
    );
  });

interface Entry {
  readonly type: string;
  readonly config?: Record<string, unknown>;
}

/** What a measure leaves out, and how its drivers are run. */
interface Variant {
  readonly run?: (entry: Entry) => Entry;
  /** Nothing over 20 ms, no small frames, no compression. */
  readonly brief?: boolean;
}

const asItIs = (entry: Entry) => entry;

/** DriverCall by h2load, a C client: one after the other, then 32 at once on one connection. */
export const calls: Measure = (side, size) => unaryCalls(side, size, {});

const unaryCalls = (side: Side, size: Size, { run: through = asItIs }: Variant) =>
  withDirectory((directory) =>
    withExporter(side, { power: through(mockPower) }, async (exporter) => {
      const wire = await openWire(exporter.port);
      const report = await wire?.report();
      await wire?.close();
      const uuid = report?.reports.find((each) => each.labels["jumpstarter.dev/name"] === "power")?.uuid ?? "";
      const message = Buffer.from(DriverCallRequest.encode({ uuid, method: "on", args: [] }).finish());
      const prefix = Buffer.alloc(5);
      prefix.writeUInt32BE(message.length, 1);
      const body = join(directory, "body");
      writeFileSync(body, Buffer.concat([prefix, message]));
      const load = async (atOnce: number, count: number) => {
        const log = join(directory, `log-${atOnce}-${count}`);
        const words = ["-n", String(count), "-c", "1", "-m", String(atOnce), "-d", body, `--log-file=${log}`]
          .concat(["-H", "content-type: application/grpc", "-H", "te: trailers"])
          .concat([`http://127.0.0.1:${exporter.port}/jumpstarter.v1.ExporterService/DriverCall`]);
        const before = exporter.cpuSeconds();
        const began = performance.now();
        const done = await run("h2load", words);
        const seconds = (performance.now() - began) / 1000;
        if (done.code !== 0 || !done.stdout.includes(`${count} succeeded`)) throw new Error(done.stdout + done.stderr);
        // Each line of the log: start time, status, duration in microseconds.
        const microseconds = readFileSync(log, "utf8")
          .trim()
          .split("\n")
          .map((line) => Number(line.split("\t")[2]));
        return { cpu: exporter.cpuSeconds() - before, seconds, microseconds: microseconds.sort((a, b) => a - b) };
      };
      // As long as it is measured: until then one of the two is compiled while it runs.
      await load(1, size.calls);
      const one = await load(1, size.calls);
      const many = await load(32, size.calls);
      return [
        { name: "unary call p50, ms", value: at(one.microseconds, 0.5) / 1000 },
        { name: "unary call p99, ms", value: at(one.microseconds, 0.99) / 1000 },
        { name: "CPU per unary call, ms", value: ((one.cpu + many.cpu) / (2 * size.calls)) * 1000 },
        { name: "unary calls, 32 at once, 1/s", value: size.calls / many.seconds },
      ];
    }),
  );

function at(sorted: readonly number[], quantile: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * quantile))] ?? Number.NaN;
}

/** Byte streams through TcpNetwork to a sink and from a source, here and over 20 ms of round trip. */
export const streams: Measure = (side, size) => byteStreams(side, size, {});

async function byteStreams(
  side: Side,
  size: Size,
  { run: through = asItIs, brief = false }: Variant,
): Promise<Sample[]> {
  const [sink, source] = [await openSink(), await openSource()];
  const exported = { sink: through(tcpNetwork(sink.server)), source: through(tcpNetwork(source)) };
  try {
    return await withExporter(side, exported, async (exporter) => {
      const up = (port: number, mebibytes: number, frameBytes: number) =>
        measured(exporter, mebibytes, () => upload(port, sink, mebibytes * MiB, frameBytes));
      const down = (port: number) => measured(exporter, size.streamMiB, () => download(port, size.streamMiB * MiB));
      await up(exporter.port, size.streamMiB / 4, 65536);
      const samples = [
        ...named("64 KiB frames up", await up(exporter.port, size.streamMiB, 65536)),
        ...named("64 KiB frames down", await down(exporter.port)),
      ];
      if (brief) return samples;
      samples.push(...named("1 KiB frames up", await up(exporter.port, size.smallFrameMiB, 1024)));
      await withDelay(exporter.port, 20, async (port) => {
        samples.push(...named("64 KiB frames up at 20 ms", await up(port, size.streamMiB, 65536)).slice(0, 1));
        samples.push(...named("64 KiB frames down at 20 ms", await down(port)).slice(0, 1));
      });
      return samples;
    });
  } finally {
    sink.server.close();
    source.close();
  }
}

interface Transfer {
  readonly megabytesPerSecond: number;
  readonly cpuSecondsPerGiB: number;
}

async function measured(exporter: Exporter, mebibytes: number, move: () => Promise<void>): Promise<Transfer> {
  const before = exporter.cpuSeconds();
  const began = performance.now();
  await move();
  const seconds = (performance.now() - began) / 1000;
  const cpu = exporter.cpuSeconds() - before;
  return { megabytesPerSecond: (mebibytes * MiB) / 1e6 / seconds, cpuSecondsPerGiB: cpu / (mebibytes / 1024) };
}

function named(what: string, { megabytesPerSecond, cpuSecondsPerGiB }: Transfer): Sample[] {
  return [
    { name: `${what}, MB/s`, value: megabytesPerSecond },
    { name: `CPU per GiB, ${what}, s`, value: cpuSecondsPerGiB },
  ];
}

interface Sink {
  readonly server: Server;
  /** Resolves when so many more bytes have come. */
  received(bytes: number): Promise<void>;
}

async function openSink(): Promise<Sink> {
  let missing = 0;
  let complete = () => {};
  const server = createServer((socket) => {
    socket
      .on("error", () => {})
      .on("data", (chunk) => {
        missing -= chunk.length;
        if (missing <= 0) complete();
      });
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const received = (bytes: number) => {
    missing = bytes;
    return new Promise<void>((resolve) => (complete = resolve));
  };
  return { server, received };
}

async function openSource(): Promise<Server> {
  const chunk = Buffer.alloc(MiB, 0xa5);
  const server = createServer((socket) => {
    const push = () => {
      while (socket.write(chunk));
    };
    socket.on("drain", push).on("error", () => {});
    push();
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  return server;
}

function tcpNetwork(server: Server) {
  const { port } = server.address() as AddressInfo;
  return { type: "jumpstarter_driver_network.driver.TcpNetwork", config: { host: "127.0.0.1", port } };
}

async function upload(port: number, sink: Sink, bytes: number, frameBytes: number): Promise<void> {
  await withStream(port, "sink", async (stream) => {
    stream.resume();
    const many = frames(frameBytes);
    const all = sink.received(bytes);
    for (let sent = 0; sent < bytes; sent += many.payloadBytes) {
      if (!stream.write(many.bytes)) await once(stream, "drain");
    }
    await all;
  });
}

async function download(port: number, bytes: number): Promise<void> {
  await withStream(port, "source", async (stream) => {
    // Frames have heads of some 10 bytes, which are counted with their 64 KiB.
    let received = 0;
    await new Promise<void>((resolve) => {
      stream.on("data", (chunk: Buffer) => {
        received += chunk.length;
        if (received >= bytes) resolve();
      });
    });
  });
}

async function withStream(port: number, driver: string, use: (stream: ClientHttp2Stream) => Promise<void>) {
  const wire = await openWire(port);
  if (wire === undefined) throw new Error("no exporter");
  try {
    await use(await wire.stream(driver));
  } finally {
    await wire.close();
  }
}

/** Puts a delaying proxy in front of a port, in a process of its own. */
async function withDelay<T>(target: number, rttMs: number, work: (port: number) => Promise<T>): Promise<T> {
  if (rttMs === 0) return work(target);
  const port = await freePort();
  const words = ["--import", "tsx", "test/bench/delay-proxy.ts", String(port), String(target), String(rttMs / 2)];
  const proxy = spawn(process.execPath, words, { stdio: ["ignore", "pipe", "inherit"] });
  try {
    await once(proxy.stdout, "data");
    return await work(port);
  } finally {
    proxy.kill();
  }
}

/** Flash and dump with the Python client, whose own speed bounds both sides alike. */
export const flash: Measure = (side, size) => flashes(side, size, {});

const mockFlasher = { type: "jumpstarter_driver_opendal.driver.MockFlasher" };

const flashes = (side: Side, size: Size, { run: through = asItIs, brief = false }: Variant) =>
  withDirectory((directory) =>
    withExporter(side, { flasher: through(mockFlasher) }, async (exporter) => {
      const timed = async (port: number, ...words: string[]) => {
        const before = exporter.cpuSeconds();
        const done = await run(clientProgram(peerVersion, "python"), ["test/bench/flash.py", directory, ...words], {
          env: { JUMPSTARTER_HOST: `127.0.0.1:${port}`, JMP_GRPC_INSECURE: "1", JMP_DRIVERS_ALLOW: "UNSAFE" },
          timeoutMs: 600_000,
        });
        if (done.code !== 0) throw new Error(done.stderr);
        return { cpu: exporter.cpuSeconds() - before, seconds: Number(/^seconds (\S+)$/m.exec(done.stdout)?.[1]) };
      };
      const megabytes = (size.flashMiB * MiB) / 1e6;
      // Makes the image, and is the first of its kind.
      await timed(exporter.port, "flash", "raw", String(size.flashMiB));
      const samples: Sample[] = [];
      for (const encoding of brief ? ["raw"] : ["raw", "gzip", "zstd"]) {
        for (const direction of ["flash", "dump"]) {
          const { cpu, seconds } = await timed(exporter.port, direction, encoding, String(size.flashMiB));
          samples.push({ name: `${direction} ${encoding}, MB/s`, value: megabytes / seconds });
          samples.push({ name: `CPU per GiB, ${direction} ${encoding}, s`, value: cpu / (size.flashMiB / 1024) });
        }
      }
      if (brief) return samples;
      await withDelay(exporter.port, 20, async (port) => {
        for (const direction of ["flash", "dump"]) {
          const { seconds } = await timed(port, direction, "raw", String(size.flashMiB));
          samples.push({ name: `${direction} raw at 20 ms, MB/s`, value: megabytes / seconds });
        }
      });
      return samples;
    }),
  );

/** The same Python drivers, through the agent's side-car and in the Python exporter itself. */
export const sidecar: Measure = async (side, size) => {
  const type = "jumpstarter_agent.SideCar";
  const python = clientProgram(peerVersion, "python");
  const through = (entry: Entry) => (side === "agent" ? { type, config: { ...entry, python } } : entry);
  const variant = { run: through, brief: true };
  // One of two processes is compiled while it runs: less would measure that.
  const enough = { ...size, calls: Math.max(size.calls, 3_000), streamMiB: Math.max(size.streamMiB, 256) };
  const samples = [
    ...(await unaryCalls(side, enough, variant)),
    ...(await byteStreams(side, enough, variant)),
    ...(await flashes(side, enough, variant)),
  ];
  return samples.map(({ name, value }) => ({ name: `side-car, ${name}`, value }));
};
