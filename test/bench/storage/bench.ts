import { execFile, execFileSync } from "node:child_process";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  closeSync,
  rmSync,
  statSync,
  truncateSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { randomBytes } from "node:crypto";
import { build } from "esbuild";
import type { WriteReport } from "../../../boards/storage/block/write.ts";
import { missingLoops } from "../../sim/loop.ts";
import { figure, median } from "../statistics.ts";
import { Cleanup } from "../tftp/cleanup.ts";
import { benchDisks, type BenchDisk } from "./devices.ts";
import type { WriterOptions } from "./our-writer.ts";

const execute = promisify(execFile);
const mebi = 2 ** 20;

/** One kind of image, written by us and by what people use instead. */
interface Contest {
  readonly name: string;
  readonly image: string;
  readonly options: Partial<WriterOptions>;
  readonly theirName: string;
  /** A shell's line; `$1` is the disk. */
  readonly theirs: string;
}

type Side = "us" | "them";

interface StorageBenchOptions {
  readonly rounds: number;
  readonly sizeMiB: number;
  /** Names of disks; all if it is missing. */
  readonly on: readonly string[] | undefined;
}

/**
 * Images written to disks: the block writer beside dd, its usual pipelines and bmaptool, in alternating rounds. Times are those of the work: of
 * writeImage, as an agent runs already, and of the whole program for the others, which start in milliseconds.
 */
export async function storageBench({ rounds, sizeMiB, on }: StorageBenchOptions): Promise<void> {
  if (missingLoops) {
    console.log(`\nleft out, the block writer: ${missingLoops}`);
    return;
  }
  await new Cleanup().during(async (life) => {
    const folder = mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "jmp-bench-images-"));
    life.after(() => rmSync(folder, { recursive: true, force: true }));
    const images = makeImages(folder, sizeMiB * mebi);
    const writer = await buildWriter(life);
    const dd = "dd of=$1 bs=4M iflag=fullblock oflag=direct conv=fsync status=none";
    const contests: Contest[] = [
      { name: "raw", image: images.raw, options: {}, theirName: "dd", theirs: `${dd} if=${images.raw}` },
      {
        name: "zstd",
        image: images.zst,
        options: {},
        theirName: "zstd -dc \\| dd",
        theirs: `zstd -dc ${images.zst} | ${dd}`,
      },
      { name: "gzip", image: images.gz, options: {}, theirName: "zcat \\| dd", theirs: `zcat ${images.gz} | ${dd}` },
      {
        name: "bmap, a third mapped",
        image: images.holey,
        options: { bmap: images.bmap },
        theirName: "bmaptool",
        theirs: `bmaptool -q copy --bmap ${images.bmap} ${images.holey} $1`,
      },
    ];
    console.log(
      `\n| ${sizeMiB} MiB, MB/s of image | disk | agent | beside | agent : it | CPU s per GB |\n| --- | --- | ---: | ---: | ---: | ---: |`,
    );
    let rssBytes = 0;
    const write = async (disk: BenchDisk, image: string, options: Partial<WriterOptions>) => {
      const words = JSON.stringify({ verify: false, ...options });
      const { stdout, cpuSeconds } = await run(disk, '"$2" "$3" "$4" "$1" "$5"', [
        process.execPath,
        writer,
        image,
        words,
      ]);
      const report = JSON.parse(stdout) as WriteReport & { total: number; rssBytes: number };
      rssBytes = Math.max(rssBytes, report.rssBytes);
      return { ...report, cpuSeconds };
    };
    for (const disk of benchDisks(life, sizeMiB * mebi)) {
      if (on !== undefined && !on.includes(disk.name)) continue;
      const rate = (seconds: number) => (sizeMiB * mebi) / 1e6 / seconds;
      const row = (what: string, ours: number[], beside: string, theirs: number[], cpu?: Record<Side, number[]>) => {
        const [us, them] = [median(ours), median(theirs)];
        const perGb = (seconds: number[]) => figure(median(seconds) / ((sizeMiB * mebi) / 1e9));
        const used = cpu === undefined ? "" : `${perGb(cpu.us)} : ${perGb(cpu.them)}`;
        const cells = [what, disk.name, figure(us), `${figure(them)} (${beside})`, figure(us / them), used];
        console.log(`| ${cells.join(" | ")} |`);
      };
      const timed = async (line: string): Promise<{ rate: number; cpuSeconds: number }> => {
        const startMs = performance.now();
        const { cpuSeconds } = await run(disk, line);
        return { rate: rate((performance.now() - startMs) / 1_000), cpuSeconds };
      };
      for (const { name, image, options, theirName, theirs } of contests) {
        const [us, them]: [number[], number[]] = [[], []];
        const cpu: Record<Side, number[]> = { us: [], them: [] };
        const sides = [
          async () => {
            const { total, cpuSeconds } = await write(disk, image, options);
            us.push(rate(total));
            cpu.us.push(cpuSeconds);
          },
          async () => {
            const { rate: reached, cpuSeconds } = await timed(theirs);
            them.push(reached);
            cpu.them.push(cpuSeconds);
          },
        ];
        for (let round = 0; round < rounds; round += 1) {
          for (const side of round % 2 === 0 ? sides : sides.toReversed()) await side();
        }
        row(name, us, theirName, them, cpu);
      }
      const [verify, read]: [number[], number[]] = [[], []];
      const [full, unchanged]: [number[], number[]] = [[], []];
      for (let round = 0; round < rounds; round += 1) {
        const remembered = join(folder, `remembered-${disk.name}-${round}`);
        const first = await write(disk, images.raw, { verify: true, remembered });
        full.push(rate(first.total));
        verify.push(rate(first.seconds.verify));
        read.push((await timed("dd if=$1 of=/dev/null bs=4M iflag=direct status=none")).rate);
        unchanged.push(rate((await write(disk, images.changed, { verify: true, remembered })).total));
      }
      row("read back and compared", verify, "dd iflag=direct", read);
      row("1 % changed, verified", unchanged, "all of it, verified", full);
    }
    console.log(`\nlargest RSS of the writer: ${figure(rssBytes / 1e6)} MB`);
  });
}

/**
 * @param line a shell's; `$1` is the disk, further ones are those of `words`
 * @returns CPU of all its programs, starts included; what the kernel does for a loop device on threads of its own is not in it
 */
async function run(disk: BenchDisk, line: string, words: readonly string[] = []) {
  const [program = "", ...argv] = [...disk.prefix, "sh", "-c", `set -e; ${line}\ntimes`, "line", disk.path, ...words];
  const { stdout } = await execute(program, argv, { maxBuffer: 64 * mebi });
  // The shell's own, and that of its children.
  const lines = stdout.trimEnd().split("\n");
  const times = (lines.at(-1) ?? "").matchAll(/(\d+)m([\d.]+)s/g);
  const cpuSeconds = [...times].reduce((sum, [, minutes, seconds]) => sum + Number(minutes) * 60 + Number(seconds), 0);
  return { stdout: lines[0] ?? "", cpuSeconds };
}

/** Real files are compressed as images are; a third of the image with holes is mapped. */
function makeImages(folder: string, bytes: number) {
  const path = (name: string) => join(folder, name);
  const count = `count=${bytes / mebi}`;
  const fill = `{ tar c /usr /opt 2>/dev/null; cat /dev/urandom; } | dd of=$1 bs=1M iflag=fullblock ${count} status=none`;
  execFileSync("sh", ["-c", fill, "line", path("raw")]);
  execFileSync("zstd", ["-q", "-3", "-T0", path("raw"), "-o", path("zst")]);
  execFileSync("sh", ["-c", `gzip -c ${path("raw")} > ${path("gz")}`]);
  copyFileSync(path("raw"), path("changed"));
  const changed = openSync(path("changed"), "r+");
  for (let index = 0; index < bytes / mebi / 100; index += 1)
    writeSync(changed, randomBytes(4096), 0, 4096, index * 100 * mebi);
  closeSync(changed);
  for (let start = 0; start < bytes / mebi; start += 96) {
    const words = [`if=${path("raw")}`, `of=${path("holey")}`, "bs=1M", "count=32", `skip=${start}`, `seek=${start}`];
    execFileSync("dd", [...words, "conv=notrunc,sparse", "status=none"]);
  }
  truncateSync(path("holey"), statSync(path("raw")).size);
  execFileSync("bmaptool", ["-q", "create", "-o", path("bmap"), path("holey")]);
  return {
    raw: path("raw"),
    zst: path("zst"),
    gz: path("gz"),
    changed: path("changed"),
    holey: path("holey"),
    bmap: path("bmap"),
  };
}

/** As an agent is built: what loads TypeScript would take memory and time of its own. */
async function buildWriter(life: Cleanup): Promise<string> {
  const folder = join(import.meta.dirname, `../../../node_modules/.cache/jmp-bench-${process.pid}`);
  mkdirSync(folder, { recursive: true });
  life.after(() => rmSync(folder, { recursive: true, force: true }));
  const outfile = join(folder, "our-writer.mjs");
  await build({
    entryPoints: [join(import.meta.dirname, "our-writer.ts")],
    outfile,
    bundle: true,
    format: "esm",
    platform: "node",
    external: ["koffi"],
    banner: { js: "import { createRequire as make } from 'node:module'; const require = make(import.meta.url);" },
  });
  return outfile;
}
