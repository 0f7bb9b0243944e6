import assert from "node:assert/strict";
import { test } from "node:test";
import { Edges, type Edge } from "../../../../boards/gpio/edges.ts";

function source() {
  let onEdges: ((edges: readonly Edge[]) => void) | undefined;
  let onLost: (error: Error) => void = () => {};
  let runs = 0;
  const edges = new Edges((taken, lost) => {
    runs += 1;
    onEdges = taken;
    onLost = lost;
    return () => (onEdges = undefined);
  });
  return {
    edges,
    happen: (rising: boolean, timestampNs = process.hrtime.bigint()) => onEdges?.([{ rising, timestampNs, missed: 0 }]),
    lose: (error: Error) => onLost(error),
    running: () => onEdges !== undefined,
    runs: () => runs,
  };
}

test("who comes later does not hear of edges from before", () => {
  const line = source();
  const [early, late]: [boolean[], boolean[]] = [[], []];
  const never = () => assert.fail("lost");
  const before = process.hrtime.bigint() - 1n;
  const stopEarly = line.edges.listen(({ rising }) => early.push(rising), never);
  line.happen(true, before);
  const between = process.hrtime.bigint();
  const stopLate = line.edges.listen(({ rising }) => late.push(rising), never);
  // It happened before the second came, and is told after.
  line.happen(true, between);
  line.happen(false);
  assert.deepEqual([early, late], [[true, false], [false]]);
  stopEarly();
  assert.equal(line.running(), true);
  stopLate();
  stopLate();
  assert.equal(line.running(), false, "nobody asks the kernel any more");
  assert.equal(line.runs(), 1);
});

test("when the line goes, everybody is told once", () => {
  const line = source();
  const told: string[] = [];
  line.edges.listen(
    () => {},
    ({ message }) => told.push(`a ${message}`),
  );
  line.edges.listen(
    () => {},
    ({ message }) => told.push(`b ${message}`),
  );
  line.lose(new Error("gone"));
  line.edges.end(new Error("closed"));
  assert.deepEqual(told, ["a gone", "b gone"]);
  assert.equal(line.running(), false);
});
