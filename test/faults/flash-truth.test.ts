// A flash that failed says so: a hundred of them, each broken in another way, on loop devices that real engines write to.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { closeSync, openSync, readFileSync, truncateSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { flashStorage } from "../../agent/cli/flash-storage.ts";
import { AgentError } from "../../agent/driver/errors.ts";
import type { FlashReceipt } from "../../agent/driver/receipt.ts";
import type { Side } from "../../boards/storage/mux.ts";
import { scratch } from "../sim/agent.ts";
import { loopDisk, missingLoops, mountOn, smallFileSystem } from "../sim/loop.ts";
import { loopMux, muxExporter } from "../sim/loop-mux.ts";

const mebi = 2 ** 20;
const mediumBytes = 16 * mebi;
const imageBytes = 5 * mebi;
const skip = missingLoops;

/** An eighth of it cannot be compressed. */
const content = Buffer.alloc(imageBytes, 0x11);
for (let at = 0; at < imageBytes; at += mebi) randomBytes(mebi / 8).copy(content, at);

interface Fault {
  readonly name: string;
  /** How often, each time at another place. */
  readonly times: number;
  /** What the receipt says. */
  readonly step: string;
  readonly code: string;
  /** @param part 0 to 1: where it strikes */
  readonly arrange: (bench: Bench, part: number) => void;
}

/** One flash, made ready to fail. */
interface Bench {
  readonly t: Pick<TestContext, "after">;
  readonly folder: string;
  disk: { path: string; backing: string; eject?: () => void; insert?: () => void };
  image: string;
  bmap?: string;
  onSelect?: (side: Side) => void;
  /** Called with each line of the log. */
  onLog?: (line: string) => void;
  readonly aborter: AbortController;
}

const packers = {
  gz: ["gzip", "-c"],
  xz: ["xz", "-0", "-c"],
  bz2: ["bzip2", "-1", "-c"],
  zst: ["zstd", "-q", "-c"],
} as const;

/** The image in another form: cut off behind a part of it, or with one bit changed there. */
function damage(bench: Bench, how: "cut" | "flip", suffix: keyof typeof packers | "simg", part: number): void {
  const path = join(bench.folder, `image.${suffix}`);
  if (suffix === "simg") {
    execFileSync("img2simg", [bench.image, path]);
  } else {
    const [program, ...args] = packers[suffix];
    writeFileSync(path, execFileSync(program, [...args, bench.image], { maxBuffer: 64 * mebi }));
  }
  const bytes = readFileSync(path);
  const at = Math.floor(64 + part * (bytes.length - 128));
  if (how === "cut") truncateSync(path, at);
  else writeAt(path, at, Buffer.from([(bytes[at] ?? 0) ^ 0x10]));
  bench.image = path;
}

function writeAt(path: string, at: number, bytes: Buffer): void {
  const fd = openSync(path, "r+");
  writeSync(fd, bytes, 0, bytes.length, at);
  closeSync(fd);
}

function mapOf(bench: Bench): string {
  bench.bmap = join(bench.folder, "image.map");
  execFileSync("bmaptool", ["-q", "create", "-o", bench.bmap, bench.image]);
  return bench.bmap;
}

const faults: Fault[] = [
  ...(["gz", "xz", "bz2", "zst", "simg"] as const).map((suffix) => ({
    name: `an image that is cut off, .${suffix}`,
    times: 6,
    step: "write",
    code: "E_ENCODING",
    arrange: (bench: Bench, part: number) => damage(bench, "cut", suffix, part),
  })),
  ...(["gz", "xz", "bz2"] as const).map((suffix) => ({
    name: `a bit that has flipped in an image, .${suffix}`,
    times: 5,
    step: "write",
    code: "E_ENCODING",
    arrange: (bench: Bench, part: number) => damage(bench, "flip", suffix, part),
  })),
  {
    name: "an image that is not what its block map promises",
    times: 10,
    step: "write",
    code: "E_DIGEST",
    arrange(bench, part) {
      mapOf(bench);
      const at = Math.floor(part * (imageBytes - 1));
      writeAt(bench.image, at, Buffer.from([(readFileSync(bench.image)[at] ?? 0) ^ 1]));
    },
  },
  {
    name: "a block map that was changed",
    times: 5,
    step: "prepare",
    code: "E_DIGEST",
    arrange(bench, part) {
      const path = mapOf(bench);
      const text = readFileSync(path, "utf8");
      const digits = [...text.matchAll(/[0-9a-f]{64}/g)].at(-1);
      const at = (digits?.index ?? 0) + Math.floor(part * 63);
      writeAt(path, at, Buffer.from(text[at] === "a" ? "b" : "a"));
    },
  },
  {
    name: "a medium that keeps another bit than was written",
    times: 12,
    step: "verify",
    code: "E_DIGEST",
    arrange(bench, part) {
      bench.onLog = (line) => {
        if (!line.startsWith("reading back")) return;
        const at = Math.floor(part * (imageBytes - 1));
        writeAt(bench.disk.backing, at, Buffer.from([(readFileSync(bench.disk.backing)[at] ?? 0) ^ 1]));
        // What was written through the file is on the disk only when nothing is cached above it.
        execFileSync("sync", ["-f", bench.disk.backing]);
      };
    },
  },
  {
    name: "a medium with fewer bytes than it says",
    times: 3,
    step: "write",
    code: "E_IO",
    arrange(bench, part) {
      const folder = smallFileSystem(bench.t, Math.ceil(part * 4 * mebi) + 256 * 1024);
      bench.disk = loopDisk(bench.t, { folder, sizeBytes: mediumBytes });
    },
  },
  {
    name: "an image that is larger than the medium",
    times: 3,
    step: "write",
    code: "E_TARGET",
    arrange: (bench) => truncateSync(bench.image, mediumBytes + 1),
  },
  {
    name: "a medium that is read-only",
    times: 2,
    step: "wait",
    code: "E_TARGET",
    arrange(bench) {
      bench.disk = loopDisk(bench.t, { readOnly: true });
    },
  },
  {
    name: "a medium that is mounted",
    times: 2,
    step: "wait",
    code: "E_TARGET",
    arrange(bench) {
      execFileSync("mkfs", ["-t", "ext4", "-q", bench.disk.path]);
      mountOn(bench.t, bench.disk.path);
    },
  },
  {
    name: "the image is the medium itself",
    times: 2,
    step: "wait",
    code: "E_TARGET",
    arrange(bench) {
      bench.image = bench.disk.backing;
    },
  },
  {
    name: "a mux that does not switch",
    times: 7,
    step: "switch to host",
    code: "E_IO",
    arrange(bench) {
      bench.onSelect = (side) => {
        if (side === "host") throw new AgentError("E_IO", "the chip does not answer");
      };
    },
  },
  {
    name: "a reader without a medium",
    times: 2,
    step: "wait",
    code: "E_TIMEOUT",
    arrange(bench) {
      bench.disk.eject?.();
    },
  },
  {
    name: "Ctrl-C",
    times: 8,
    step: "write",
    code: "E_CANCELLED",
    arrange(bench) {
      bench.onLog = (line) => {
        if (line.startsWith("written")) bench.aborter.abort();
      };
    },
  },
];

test(
  "a hundred flashes that fail are a hundred failures, with a receipt each",
  { skip, timeout: 300_000 },
  async (t) => {
    let flashes = 0;
    for (const fault of faults) {
      await t.test(`${fault.name} (${fault.times})`, async (t) => {
        for (let time = 0; time < fault.times; time += 1) {
          const what = `${fault.name}, ${time}`;
          const { code, receipt, sides } = await flashWith(t, fault, (time + 0.5) / fault.times);
          flashes += 1;
          assert.notEqual(code, 0, what);
          assert.equal(receipt.verdict, "failed", what);
          assert.deepEqual(
            [receipt.failure?.step, receipt.failure?.code],
            [fault.step, fault.code],
            receipt.failure?.message,
          );
          assert.equal(receipt.steps.at(-1)?.verdict, "failed", what);
          assert.equal(receipt.readBackSha256, undefined, what);
          assert.equal(sides.at(-1), "dut", what);
        }
      });
    }
    assert.ok(flashes >= 100, `${flashes}`);
  },
);

async function flashWith(t: TestContext, { arrange }: Fault, part: number) {
  const afters: (() => unknown)[] = [];
  const here = { after: (hook: () => unknown) => void afters.push(hook) } as Pick<TestContext, "after">;
  try {
    const folder = scratch(here);
    const bench: Bench = {
      t: here,
      folder,
      disk: loopDisk(here),
      image: join(folder, "image"),
      aborter: new AbortController(),
    };
    writeFileSync(bench.image, content);
    arrange(bench, part);
    const sides: Side[] = [];
    const onSelect = (side: Side) => {
      sides.push(side);
      bench.onSelect?.(side);
    };
    // It stays in: what is taken out and put in again is not what these are about.
    const driver = loopMux({ path: bench.disk.path }, { onSelect });
    const { exporter, kept } = await muxExporter(here, driver, { storage_timeout: 0.3 });
    exporter.logs.subscribe(({ message }) => bench.onLog?.(message));
    const given = {
      storage: "storage",
      receipt: join(folder, "receipt.json"),
      ...(bench.bmap === undefined ? {} : { bmap: bench.bmap }),
    };
    const code = await flashStorage(exporter, bench.image, given, bench.aborter.signal);
    const receipt = JSON.parse(readFileSync(given.receipt, "utf8")) as FlashReceipt;
    assert.deepEqual(
      kept.receipts.map(({ verdict }) => verdict),
      ["failed"],
    );
    return { code, receipt, sides };
  } finally {
    // In the order in which the runner does it.
    for (const after of afters) await after();
  }
}
