import type { CallDone, ResourceDone, StreamDone } from "../session/observer.ts";

interface Counts {
  count: number;
  /** How often it failed, by error code. */
  failed: Record<string, number>;
  ms: number;
  bytesIn: number;
  bytesOut: number;
}

interface Row extends Counts {
  readonly driver: string;
  readonly type: string;
  readonly method: string;
  /** Present for what a lease hook has done. */
  readonly by: "hook" | undefined;
}

/** More different methods than drivers of one exporter have; what is beyond is added up in one row. */
const mostRows = 256;

/** Calls, streams and resources, added up by what they were. */
export interface Tally {
  readonly empty: boolean;
  call(done: CallDone): void;
  stream(done: StreamDone): void;
  resource(done: ResourceDone): void;
  /** One row for each method; kinds that did not occur are left out. */
  details(): object;
  /** One row for each kind. */
  sums(): object;
}

export function createTally(): Tally {
  const calls = createRows();
  const streams = createRows();
  const resources = noCounts();
  return {
    get empty() {
      return calls.all.count + streams.all.count + resources.count === 0;
    },
    call: (done) => calls.add(done, 0, 0),
    stream: (done) => streams.add(done, done.bytesIn, done.bytesOut),
    resource: (done) => add(resources, done, done.bytesIn, done.bytesOut),
    details: () => ({
      ...(calls.all.count === 0 ? {} : { calls: calls.rows().map(withoutBytes) }),
      ...(streams.all.count === 0 ? {} : { streams: streams.rows().map(rounded) }),
      ...(resources.count === 0 ? {} : { resources: rounded(resources) }),
    }),
    sums: () => ({ calls: withoutBytes(calls.all), streams: rounded(streams.all), resources: rounded(resources) }),
  };
}

function createRows() {
  const byKey = new Map<string, Row>();
  const all = noCounts();
  const others: Row = { driver: "", type: "", method: "others", by: undefined, ...noCounts() };
  const rowOf = ({ driver, type, method, caller }: CallDone): Row => {
    const by = caller === "hook" ? caller : undefined;
    const key = JSON.stringify([driver, method, by]);
    const known = byKey.get(key);
    if (known !== undefined) return known;
    if (byKey.size >= mostRows) return others;
    const row: Row = { driver, type, method, by, ...noCounts() };
    byKey.set(key, row);
    return row;
  };
  return {
    all,
    add(done: CallDone, bytesIn: number, bytesOut: number) {
      add(rowOf(done), done, bytesIn, bytesOut);
      add(all, done, bytesIn, bytesOut);
    },
    rows: () => [...byKey.values(), others].filter(({ count }) => count > 0),
  };
}

function noCounts(): Counts {
  return { count: 0, failed: {}, ms: 0, bytesIn: 0, bytesOut: 0 };
}

function add(
  counts: Counts,
  { code, durationMs }: Pick<CallDone, "code" | "durationMs">,
  bytesIn: number,
  bytesOut: number,
): void {
  counts.count += 1;
  counts.ms += durationMs;
  counts.bytesIn += bytesIn;
  counts.bytesOut += bytesOut;
  if (code !== undefined) counts.failed[code] = (counts.failed[code] ?? 0) + 1;
}

function rounded<C extends Counts>(counts: C): C {
  return { ...counts, ms: Math.round(counts.ms) };
}

function withoutBytes<C extends Counts>(counts: C): Omit<C, "bytesIn" | "bytesOut"> {
  const { bytesIn: _in, bytesOut: _out, ...rest } = rounded(counts);
  return rest;
}
