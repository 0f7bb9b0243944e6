import { once } from "node:events";
import { createServer, type Socket } from "node:net";
import { join } from "node:path";
import type { TestContext } from "node:test";
import type { FlashReceipt } from "../../agent/driver/receipt.ts";
import { ReceiptStore } from "../../agent/ops/receipts/store.ts";
import { freePort, scratch } from "../sim/agent.ts";
import { setUpBench, type Bench } from "../sim/lease-bench.ts";

/** A host with many exporters, as its operator sees it. */
export interface Rack {
  readonly bench: Bench;
  readonly exporters: readonly string[];
  /** Of the operations listener. */
  readonly url: string;
  readonly console: Board;
}

/** What is behind a serial port. */
export interface Board {
  readonly port: number;
  /** Lines that were printed. */
  readonly printed: number;
  print(line: string): void;
  /** Prints numbered lines. @returns stops it */
  flood(bytesPerSecond: number): () => void;
}

const power = { type: "jumpstarter_driver_power.driver.MockPower" };
const pySerial = "jumpstarter_driver_pyserial.driver.PySerial";

/** One board that prints, one whose port is missing, one that serves boot files, and others that only wait. */
export async function startRack(t: TestContext, count: number): Promise<Rack> {
  const directory = scratch(t);
  const exporters = Array.from({ length: count }, (_, index) => `board-${String(index).padStart(2, "0")}`);
  const board = await startBoard(t);
  const port = await freePort();
  const receipts = join(directory, "receipts");
  await keepReceipts(new ReceiptStore({ directory: receipts }));
  const serial = (url: string, record: unknown) => ({ type: pySerial, config: { url, record } });
  const tftp = {
    type: "jumpstarter_driver_tftp.driver.Tftp",
    config: { root_dir: join(directory, "tftp"), port: 0, host: "127.0.0.1" },
  };
  const configs = exporters.map((_, index) => ({
    export: {
      power,
      ...(index === 0 ? { serial: serial(`socket://127.0.0.1:${board.port}`, { directory }) } : {}),
      ...(index === 1 ? { serial: serial("/dev/serial/by-id/usb-FTDI_FT232R_A50285BI-if00-port0", false) } : {}),
      ...(index > 1 ? { serial: serial("loop://", false), tftp } : {}),
    },
  }));
  const bench = await setUpBench(t, {
    exporters,
    configs,
    args: ["--operations", String(port), "--receipts", receipts, "--audit-log", join(directory, "audit.log")],
    readyMs: 60_000,
  });
  return { bench, exporters, url: `http://127.0.0.1:${port}/`, console: board };
}

/** A serial port behind a terminal server. */
async function startBoard(t: Pick<TestContext, "after">): Promise<Board> {
  const readers = new Set<Socket>();
  const server = createServer((socket) => {
    readers.add(socket);
    socket.on("error", () => {}).once("close", () => readers.delete(socket));
    socket.resume();
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    server.close();
    for (const reader of readers) reader.destroy();
  });
  let printed = 0;
  const send = (text: string) => readers.forEach((reader) => reader.write(text));
  const numbered = () => {
    printed += 1;
    const time = (printed / 4_000).toFixed(6).padStart(12);
    return `[${time}] mmc0: line ${printed}: new high speed SDHC card at address aaaa\r\n`;
  };
  return {
    port: (server.address() as { port: number }).port,
    get printed() {
      return printed;
    },
    print: (line) => send(`${line}\r\n`),
    flood(bytesPerSecond) {
      const beganMs = performance.now();
      let sent = 0;
      const timer = setInterval(() => {
        let text = "";
        const due = ((performance.now() - beganMs) / 1_000) * bytesPerSecond - sent;
        while (text.length < due) text += numbered();
        sent += text.length;
        send(text);
      }, 20);
      return () => clearInterval(timer);
    },
  };
}

async function keepReceipts(store: ReceiptStore): Promise<void> {
  const sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
  const flash = (minutesAgo: number, exporter: string, changed: Partial<FlashReceipt>): FlashReceipt => ({
    format: "jumpstarter-agent/flash-receipt/v1",
    exporter,
    lease: "01975f2e-8a7b",
    verdict: "verified",
    startedAt: new Date(Date.now() - minutesAgo * 60_000).toISOString(),
    durationMs: 74_200,
    driver: "flasher",
    method: "netboot-shell",
    image: { name: "os-image-8.2.raw.xz", bytes: 402_653_184, sha256, encoding: "xz", content: { bytes: 2e9, sha256 } },
    target: { path: "/dev/mmcblk0", bytes: 31_268_536_320, model: "SD32G" },
    readBackSha256: sha256,
    steps: netboot.map(([name, startMs, durationMs, bytes]) => ({ name, startMs, durationMs, verdict: "ok", bytes })),
    ...changed,
  });
  const all = [
    flash(95, "board-04", {
      verdict: "failed",
      durationMs: 34_000,
      failure: { step: "boot", code: "E_TIMEOUT", message: "no login prompt within 30 s" },
      steps: netboot.slice(0, 6).map(([name, startMs, durationMs], index) => ({
        ...{ name, startMs, durationMs },
        verdict: index === 5 ? ("failed" as const) : ("ok" as const),
      })),
    }),
    flash(41, "board-02", { method: "block", driver: "storage", durationMs: 48_000 }),
    flash(12, "board-00", {}),
  ];
  for (const receipt of all) {
    const id = store.newId(receipt.exporter, new Date(receipt.startedAt));
    await store.end(id, { ...receipt, id });
  }
}

const netboot: readonly (readonly [string, number, number, number?])[] = [
  ["stage image", 0, 21_000, 2e9],
  ["power cycle", 400, 2_100],
  ["U-Boot", 2_500, 3_200],
  ["U-Boot network", 5_700, 1_900],
  ["load kernel", 7_600, 2_400, 24e6],
  ["boot", 10_000, 8_300],
  ["log in", 18_300, 600],
  ["wait for image", 18_900, 2_100],
  ["write", 21_000, 31_500, 2e9],
  ["sync", 52_500, 1_700],
  ["verify", 54_200, 18_900, 2e9],
  ["power off", 73_100, 1_100],
];
