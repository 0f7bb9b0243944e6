import assert from "node:assert/strict";
import { test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { anySignal } from "../../../../agent/sys/any-signal.ts";

async function collectGarbage(): Promise<void> {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  // What a turn has looked at through a weak reference lives until the turn ends.
  for (let time = 0; time < 3; time += 1) {
    await turn();
    collect();
  }
}

/** A signal whose second source was aborted, and is held by nobody. */
function abortedByForgotten(outer: AbortSignal, nested: boolean): AbortSignal {
  const inner = new AbortController();
  const signal = anySignal([outer, inner.signal]);
  const result = nested ? anySignal([outer, signal]) : signal;
  inner.abort(new Error("the inner one"));
  return result;
}

for (const nested of [false, true]) {
  test(`a signal is aborted though what has aborted it is forgotten${nested ? ", two levels below" : ""}`, async () => {
    const outer = new AbortController();
    const signal = abortedByForgotten(outer.signal, nested);
    await collectGarbage();
    assert.throws(() => signal.throwIfAborted(), /the inner one/);
    assert.equal(signal.aborted, true);
  });
}

test("a signal that is forgotten is not held by its sources", async () => {
  const outer = new AbortController();
  const forgotten = (() => new WeakRef(anySignal([outer.signal])))();
  await collectGarbage();
  assert.equal(forgotten.deref(), undefined);
  outer.abort();
});

test("listeners are told, and what is aborted already stays so", () => {
  const [one, two] = [new AbortController(), new AbortController()];
  const signal = anySignal([one.signal, two.signal]);
  let told = 0;
  signal.addEventListener("abort", () => (told += 1));
  two.abort(new Error("two"));
  one.abort(new Error("one"));
  assert.equal(told, 1);
  assert.match(String(signal.reason), /two/);
  assert.match(String(anySignal([signal]).reason), /two/);
});
