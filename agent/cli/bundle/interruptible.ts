import { listenForStop } from "../signals.ts";

/** Runs work that Ctrl-C ends; then the exit code is the signal's. */
export async function interruptible(work: (signal: AbortSignal) => Promise<number>): Promise<number> {
  const stop = listenForStop((exitCode) => process.exit(exitCode));
  try {
    return await work(stop.signal);
  } catch (error) {
    if (!stop.signal.aborted) throw error;
    process.stderr.write("interrupted; what was not finished has no name\n");
    return (await stop.requested).exitCode;
  }
}
