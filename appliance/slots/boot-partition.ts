import { mkdtemp, readFile, rmdir } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AgentError } from "../../agent/driver/errors.ts";
import { lastWords, runProgram } from "../../agent/sys/program.ts";
import type { Partition, SystemRoots } from "./system.ts";

/** A disk that does not answer is not waited for any longer. */
const mountLimitMs = 60_000;

/**
 * Makes the boot partition writable while it is used: mounted where it is, or on a folder of our own. It is read-only at other times, so that
 * nothing on it is under way when the power goes.
 * @param use gets the folder
 * @param options.readOnly it is only read
 * @throws AgentError E_IO if it cannot be mounted; what `use` throws
 */
export async function withBootPartition<T>(
  boot: Partition,
  use: (folder: string) => Promise<T>,
  {
    proc,
    signal,
    readOnly = false,
  }: Pick<SystemRoots, "proc"> & { readonly signal: AbortSignal; readonly readOnly?: boolean },
): Promise<T> {
  const mounted = await mountOf(boot, proc);
  if (mounted !== undefined && (readOnly || mounted.isWritable)) return await use(mounted.folder);
  if (mounted !== undefined) {
    await mount(["-o", "remount,rw", mounted.folder], signal);
    try {
      return await use(mounted.folder);
    } finally {
      // Also when we are interrupted. A file that is open keeps it writable, which harms nobody.
      await mount(["-o", "remount,ro", mounted.folder], AbortSignal.timeout(mountLimitMs)).catch(() => {});
    }
  }
  const folder = await mkdtemp(join(tmpdir(), "jmp-agent-boot-"));
  try {
    await mount(
      ["-t", "vfat", "-o", `${readOnly ? "ro" : "rw"},nosuid,nodev,noexec,umask=0077`, boot.path, folder],
      signal,
    );
    try {
      return await use(folder);
    } finally {
      await run("umount", [folder], AbortSignal.timeout(mountLimitMs));
    }
  } finally {
    await rmdir(folder);
  }
}

/** See proc_pid_mountinfo(5). */
async function mountOf(
  { number }: Partition,
  proc: string,
): Promise<{ folder: string; isWritable: boolean } | undefined> {
  const lines = (await readFile(join(proc, "self/mountinfo"), "utf8")).split("\n").map((line) => line.split(" "));
  const fields = lines.find((line) => line[2] === number && line[3] === "/");
  const [folder, options, ownOptions] = [fields?.[4], fields?.[5], fields?.at(-1)];
  if (folder === undefined) return undefined;
  const isWritable = [options, ownOptions].every((list) => list?.split(",").includes("rw"));
  return { folder: folder.replace(/\\040/g, " "), isWritable };
}

const mount = (words: string[], signal: AbortSignal) => run("mount", words, signal);

async function run(program: string, words: string[], signal: AbortSignal): Promise<void> {
  const { code, stderr } = await runProgram([program, ...words], { signal, timeoutMs: mountLimitMs });
  if (code === 0) return;
  throw new AgentError("E_IO", `${program} ${words.at(-1)} failed${lastWords(stderr, ": ")}`);
}
