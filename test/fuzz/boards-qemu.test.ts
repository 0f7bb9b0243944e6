// What QEMU says, as it should be and as it should not.
import assert from "node:assert/strict";
import { PassThrough } from "node:stream";
import { test } from "node:test";
import fc from "fast-check";
import { parseQmp, qmpCommand, serialTerminal } from "../../boards/qemu/protocol.ts";
import { Qmp } from "../../boards/qemu/qmp.ts";
import { formatSize, parseSize } from "../../boards/qemu/sizes.ts";

const numRuns = 5_000;
/** As JSON has it: without a minus zero. */
const anyValue = fc.jsonValue().map((value) => JSON.parse(JSON.stringify(value)) as unknown);
const json = fc.jsonValue().map((value) => JSON.stringify(value));
const line = fc.oneof(
  fc.string({ maxLength: 60 }),
  json,
  fc
    .record(
      {
        id: fc.oneof(fc.integer(), fc.string()),
        return: fc.jsonValue(),
        error: fc.jsonValue(),
        event: fc.jsonValue(),
        QMP: fc.jsonValue(),
      },
      { requiredKeys: [] },
    )
    .map((value) => JSON.stringify(value)),
);

test("any line of QEMU is a message that is known, or none", () => {
  fc.assert(
    fc.property(line, (text) => {
      const message = parseQmp(text);
      if (message?.kind === "error") assert.equal(typeof message.text, "string");
      if (message?.kind === "return" || message?.kind === "error") assert.equal(typeof message.id, "number");
      if (message?.kind === "event") assert.ok(typeof message.name === "string" && typeof message.data === "object");
    }),
    { numRuns },
  );
});

test("a command is one line, and its answer is found again", () => {
  fc.assert(
    fc.property(
      fc.nat(),
      fc.string(),
      fc.dictionary(fc.string(), fc.jsonValue()),
      anyValue,
      (id, name, args, value) => {
        const text = qmpCommand(id, name, args);
        assert.equal(text.indexOf("\n"), text.length - 1);
        assert.deepEqual(parseQmp(JSON.stringify({ return: value, id })), { kind: "return", id, value });
      },
    ),
    { numRuns },
  );
});

test("the terminal of a console is an absolute path, or unknown", () => {
  const device = fc.record({
    label: fc.constantFrom("serial0", "serial1"),
    filename: fc.oneof(
      fc.string(),
      fc.string().map((path) => `pty:${path}`),
    ),
  });
  fc.assert(
    fc.property(fc.oneof(fc.jsonValue(), fc.array(device)), (answer) => {
      const path = serialTerminal(answer);
      assert.ok(path === undefined || path.startsWith("/"));
    }),
    { numRuns },
  );
});

test("answers come through whatever else is said, in whatever pieces", async () => {
  const noise = fc.string({ maxLength: 30 }).map((text) => text.replaceAll("\n", " "));
  await fc.assert(
    fc.asyncProperty(
      fc.array(noise, { maxLength: 5 }),
      anyValue,
      fc.integer({ min: 1, max: 20 }),
      async (lines, value, piece) => {
        const [fromQemu, toQemu] = [new PassThrough(), new PassThrough()];
        const answer = new Qmp(fromQemu, toQemu).execute("query-x");
        const all = Buffer.from([...lines, JSON.stringify({ return: value, id: 1 }), ""].join("\n"));
        for (let at = 0; at < all.length; at += piece) fromQemu.write(all.subarray(at, at + piece));
        // Noise may be the answer by chance.
        if (lines.every((text) => parseQmp(text) === undefined)) assert.deepEqual(await answer, value);
        else await answer.catch(() => {});
        fromQemu.destroy();
      },
    ),
    { numRuns: 300 },
  );
});

test("a size is a whole number of bytes, or none", () => {
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string({ maxLength: 10 }),
        fc
          .tuple(fc.double({ min: 0, max: 1e6, noNaN: true }), fc.constantFrom("", "k", "M", "G", "T", "GiB", "MB"))
          .map(([number, unit]) => `${number}${unit}`),
      ),
      (text) => {
        const bytes = parseSize(text);
        if (bytes === undefined) return;
        assert.ok(Number.isSafeInteger(bytes) && bytes > 0);
        assert.match(formatSize(bytes), /^\d+(\.\d)?([KMGTP]i)?B$/);
      },
    ),
    { numRuns },
  );
});
