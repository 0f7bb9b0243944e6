export interface Job {
  readonly name: string;
  /** How many processors it keeps busy. */
  readonly cores: number;
  /** Names of jobs that must have ended. How they ended is theirs. */
  readonly after?: readonly string[];
  /** Names, or kinds, of jobs with which it shares something that only one can have. */
  readonly apart?: readonly string[];
  /** What it is called in `apart`, beside its name; no two of a kind run at once. */
  readonly kind?: string;
  /** Must not reject. */
  readonly run: () => Promise<unknown>;
}
/**
 * Jobs begin in the order of the list; one that fits goes before one that does not fit yet.
 * @param cores how many there are. A job that wants more runs alone.
 */
export function runJobs(jobs: readonly Job[], cores: number): Promise<void>;
