import { setFlagsFromString } from "node:v8";

/** Longer than a start takes on a slow board; an agent that is busy earlier only runs a little slower until then. */
const startMs = 2_000;

/**
 * Keeps V8 from spending memory on the start, which happens once: no optimising compilers, and a young generation
 * that does not grow with the garbage of loading code. Both come back when the agent is up, for the work it is for.
 * Worth an eighth of an idle agent's memory: a PSS of 51.5 instead of 58.8 MiB with ten drivers.
 */
export function leanStart(): void {
  setFlagsFromString("--no-opt");
  setFlagsFromString("--no-sparkplug");
  setFlagsFromString("--semi-space-growth-factor=1");
  setTimeout(() => {
    setFlagsFromString("--opt");
    setFlagsFromString("--sparkplug");
    setFlagsFromString("--semi-space-growth-factor=2");
  }, startMs).unref();
}
