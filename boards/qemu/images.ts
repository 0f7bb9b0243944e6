import { execFile } from "node:child_process";
import { statfs } from "node:fs/promises";
import { dirname } from "node:path";
import { promisify } from "node:util";
import * as z from "zod";
import { AgentError } from "../../agent/driver/errors.ts";
import { imageFormats, type ImageFormat } from "./arguments.ts";
import { formatSize } from "./sizes.ts";

/** qemu-img reads headers only, and makes a file longer; a hanging disk is no reason to hang with it. */
const limits = { timeout: 60_000, killSignal: "SIGKILL", maxBuffer: 4 * 2 ** 20 } as const;

const imageInfo = z.object({
  format: z.string(),
  "virtual-size": z.number(),
  /** What it takes on the disk now. */
  "actual-size": z.number().optional(),
  "backing-filename": z.string().optional(),
  "format-specific": z
    .object({
      data: z.looseObject({
        "data-file": z.string().optional(),
        extents: z.array(z.looseObject({ filename: z.string() })).optional(),
      }),
    })
    .partial()
    .optional(),
});
type ImageInfo = z.output<typeof imageInfo>;

export interface RootImage {
  readonly path: string;
  readonly format: ImageFormat;
  readonly virtualBytes: number | undefined;
  readonly allocatedBytes: number;
}

/**
 * Finds out what an image is. What qemu-img cannot read is taken for raw.
 * @param own it is the operator's: it may name other files. A client's may not, as they would be read, and written, with the agent's rights.
 * @throws AgentError E_INVALID
 */
export async function inspectImage(path: string, { own }: { own: boolean }, signal: AbortSignal): Promise<RootImage> {
  const info = await readInfo(path, signal);
  if (info === undefined) return { path, format: "raw", virtualBytes: undefined, allocatedBytes: 0 };
  const format = imageFormats.find((known) => known === info.format);
  if (format === undefined) throw new AgentError("E_INVALID", `unsupported image format: ${info.format}`);
  const [foreign] = filesBeside(path, info);
  if (!own && foreign !== undefined) {
    throw new AgentError("E_INVALID", `the image refers to another file, ${foreign}: flash one that stands alone`);
  }
  return { path, format, virtualBytes: info["virtual-size"], allocatedBytes: info["actual-size"] ?? 0 };
}

function filesBeside(path: string, info: ImageInfo): string[] {
  const { "data-file": data, extents = [] } = info["format-specific"]?.data ?? {};
  const named = [info["backing-filename"], data, ...extents.map(({ filename }) => filename)];
  return named.filter((name) => name !== undefined).filter((name) => name !== path);
}

async function readInfo(path: string, signal: AbortSignal): Promise<ImageInfo | undefined> {
  const { code, stdout } = await qemuImg(["info", "--output=json", path], signal);
  if (code !== 0) return undefined;
  try {
    return imageInfo.parse(JSON.parse(stdout));
  } catch (cause) {
    throw new AgentError("E_FAILED", "qemu-img says nothing that is understood here", { cause });
  }
}

/**
 * Makes the image of a root disk that large, unless it is.
 * @throws AgentError E_FAILED if it is larger, there is no room, or qemu-img cannot
 */
export async function growImage(image: RootImage, bytes: number, signal: AbortSignal): Promise<void> {
  const current = image.virtualBytes ?? 0;
  if (bytes < current) {
    const sizes = `current ${formatSize(current)}, requested ${formatSize(bytes)}`;
    throw new AgentError("E_FAILED", `Shrinking disk is not supported: ${sizes}`);
  }
  const { bavail, bsize } = await statfs(dirname(image.path));
  const [free, needed] = [bavail * bsize, bytes - image.allocatedBytes];
  if (needed > free) {
    const sizes = `need ${formatSize(needed)}, only ${formatSize(free)} available`;
    throw new AgentError("E_FAILED", `Not enough disk space: ${sizes}`);
  }
  if (bytes === current) return;
  // The format is named: a raw image could begin like another one.
  const { code, stderr } = await qemuImg(["resize", "-f", image.format, image.path, `${bytes}`], signal);
  if (code !== 0) throw new AgentError("E_FAILED", `Failed to resize disk: ${stderr.trim()}`);
}

async function qemuImg(args: string[], signal: AbortSignal): Promise<{ code: number; stdout: string; stderr: string }> {
  try {
    return { code: 0, ...(await promisify(execFile)("qemu-img", args, { ...limits, signal })) };
  } catch (error) {
    signal.throwIfAborted();
    const {
      code,
      killed,
      stdout = "",
      stderr = "",
    } = error as Partial<Record<"stdout" | "stderr", string>> & {
      code?: unknown;
      killed?: boolean;
    };
    if (killed === true) throw new AgentError("E_TIMEOUT", `qemu-img is not done after ${limits.timeout / 1_000} s`);
    if (typeof code !== "number") throw error;
    return { code, stdout, stderr };
  }
}
