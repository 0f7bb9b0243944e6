// Runs jobs beside each other, as far as the machine has room and they leave each other alone.

/**
 * Jobs begin in the order of the list; one that fits goes before one that does not fit yet.
 * Types and what they mean: schedule.d.mts.
 */
export async function runJobs(jobs, cores) {
  const waiting = [...jobs];
  const running = new Map();
  const ended = new Set();
  while (waiting.length > 0 || running.size > 0) {
    for (const job of [...waiting]) {
      if (!fits(job, [...running.keys()], ended, cores)) continue;
      waiting.splice(waiting.indexOf(job), 1);
      running.set(
        job,
        job.run().then(() => {
          running.delete(job);
          ended.add(job.name);
        }),
      );
    }
    if (running.size === 0) throw new Error(`nobody ends what these wait for: ${waiting.map(({ name }) => name)}`);
    await Promise.race(running.values());
  }
}

function fits(job, running, ended, cores) {
  const taken = running.reduce((sum, other) => sum + other.cores, 0);
  return (
    (job.after ?? []).every((name) => ended.has(name)) &&
    running.every((other) => !excludes(job, other) && !excludes(other, job)) &&
    (taken === 0 || taken + job.cores <= cores)
  );
}

function excludes({ kind, apart = [] }, other) {
  return (kind !== undefined && kind === other.kind) || apart.includes(other.name) || apart.includes(other.kind);
}
