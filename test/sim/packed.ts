import { spawnSync } from "node:child_process";
import { gzipSync } from "node:zlib";

/** Data as the programs of this name pack it. */
export const gzip = async (data: Buffer) => gzipSync(data);
export const xz = async (data: Buffer) => packedBy("xz", data);
export const bzip2 = async (data: Buffer) => packedBy("bzip2", data);

function packedBy(program: string, input: Buffer): Buffer {
  const { stdout, status, error } = spawnSync(program, ["-c"], { input, maxBuffer: 2 ** 30 });
  if (status !== 0) throw new Error(`${program} failed`, { cause: error });
  return stdout;
}
