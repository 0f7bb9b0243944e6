/** A reporter of node:test that tells the guest's first process of each test as it ends. */
import type { TestEvent } from "node:test/reporters";
import type { FromGuest } from "./messages.ts";

// eslint-disable-next-line require-yield -- A reporter is a generator of text, and this one's text goes another way.
export default async function* report(events: AsyncIterable<TestEvent>): AsyncGenerator<string> {
  const names: string[] = [];
  for await (const { type, data } of events) {
    // Starts come in the order in which tests are written, so the names above are those of the parents.
    if (type === "test:start") names[data.nesting] = data.name;
    if (type !== "test:pass" && type !== "test:fail") continue;
    const { details } = data;
    const error = type === "test:fail" ? (data.details.error as Failure) : undefined;
    // Its subtests have told why, or that they passed.
    if (error?.failureType === "subtestsFailed" || (error === undefined && details.type === "suite")) continue;
    const name = [...names.slice(0, data.nesting), data.name].join(" > ");
    const skip = data.skip ?? data.todo;
    const test = {
      name,
      ms: details.duration_ms,
      ...(error === undefined ? {} : { error: textOf(error) }),
      ...(skip === undefined || skip === false ? {} : { skip: String(skip) }),
    };
    process.send?.({ type: "test", test } satisfies FromGuest);
  }
}

interface Failure extends Error {
  readonly failureType?: string;
}

function textOf(error: Failure): string {
  const cause = error.cause;
  return cause instanceof Error ? (cause.stack ?? cause.message) : (error.stack ?? error.message);
}
