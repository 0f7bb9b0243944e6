import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

type Collect = (options: { type: "minor" }) => void;

/**
 * Has the collector look for young garbage now, in a millisecond or so. Without it V8 lets as much as 64 MiB (Node 24) of memory outside its heap
 * pile up before it looks.
 */
export function youngCollector(): () => void {
  // Only a context that is made after that has the function.
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as Collect;
  return () => collect({ type: "minor" });
}
