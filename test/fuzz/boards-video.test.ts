// What cameras and clients send, with any bytes, in any pieces.
import assert from "node:assert/strict";
import { PassThrough } from "node:stream";
import { buffer } from "node:stream/consumers";
import { test } from "node:test";
import fc from "fast-check";
import { hexWords } from "../../boards/probe-rs/protocol.ts";
import { readState } from "../../boards/ustreamer/protocol.ts";
import { FirstPart } from "../../boards/video/multipart.ts";
import { isPicture, pictureSize } from "../../boards/video/protocol.ts";
import { rewriteRequestHead } from "../../boards/video/request-head.ts";

const numRuns = 3_000;
const most = 400;

/** Bytes that are parts, or nearly. */
const words = fc.constantFrom(
  "--b\r\n",
  "\r\n",
  "\n",
  "--b",
  "Content-Length: 3\r\n",
  "X: y\r\n",
  "\r\n\r\n",
  "\xff\xd8",
  "a",
  "-",
);
const body = fc
  .array(fc.oneof(words, fc.string({ maxLength: 20, unit: "binary-ascii" })), { maxLength: 30 })
  .map((pieces) => Buffer.from(pieces.join(""), "latin1"));
const steps = fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 10 });

function* inPieces(bytes: Buffer, sizes: readonly number[]): Generator<Buffer> {
  for (let at = 0, index = 0; at < bytes.length; index += 1) {
    const size = sizes[index % sizes.length] ?? 1;
    yield bytes.subarray(at, at + size);
    at += size;
  }
}

/** The first part, `more` while there is none, or the error. */
function firstPart(pieces: Iterable<Buffer>): string {
  const first = new FirstPart(most);
  try {
    for (const piece of pieces) {
      const content = first.push(piece);
      if (content !== undefined) return `part ${Buffer.from(content).toString("latin1")}`;
    }
    return "more";
  } catch (error) {
    return (error as Error).message;
  }
}

test("the first part is the same in whatever pieces it comes", () => {
  fc.assert(
    fc.property(body, steps, (bytes, sizes) => {
      const whole = firstPart([bytes]);
      assert.equal(firstPart(inPieces(bytes, sizes)), whole);
      assert.ok(whole.length <= most + "part ".length);
    }),
    { numRuns },
  );
});

test("a part that was sent is the part that is found", () => {
  const content = fc.uint8Array({ maxLength: 200 }).filter((bytes) => !Buffer.from(bytes).includes("--b"));
  fc.assert(
    fc.property(content, fc.boolean(), steps, (bytes, sized, sizes) => {
      const head = `--b\r\nContent-Type: image/jpeg\r\n${sized ? `Content-Length: ${bytes.length}\r\n` : ""}\r\n`;
      const sent = Buffer.concat([Buffer.from(head), bytes, Buffer.from("\r\n--b\r\n")]);
      assert.equal(firstPart(inPieces(sent, sizes)), `part ${Buffer.from(bytes).toString("latin1")}`);
    }),
    { numRuns },
  );
});

test("any bytes have a size or none", () => {
  const markers = fc.constantFrom([0xff, 0xc0], [0xff, 0xe0, 0, 4, 1, 2], [0xff, 0xda], [0xff], [0, 17, 8, 1, 2, 3, 4]);
  const bytes = fc
    .tuple(
      fc.constantFrom([0xff, 0xd8, 0xff], [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a], []),
      fc.array(fc.oneof(markers, fc.array(fc.nat(255), { maxLength: 5 })), { maxLength: 20 }),
    )
    .map(([magic, rest]) => Uint8Array.from([...magic, ...rest.flat()]));
  fc.assert(
    fc.property(bytes, (picture) => {
      const size = pictureSize(picture);
      if (size === undefined) return;
      assert.ok(isPicture(picture));
      assert.ok(
        Number.isSafeInteger(size.width) && size.width > 0 && Number.isSafeInteger(size.height) && size.height > 0,
      );
    }),
    { numRuns },
  );
});

test("a request's head is rewritten alike in whatever pieces it comes, and nothing else is touched", async () => {
  const parts = fc.constantFrom(
    "GET / HTTP/1.1\r\n",
    "host: x\r\n",
    "HOST:y\r\n",
    "A: b\r\n",
    "\r\n",
    "GET ",
    "\x00",
    "Host: z",
  );
  const request = fc
    .array(fc.oneof(parts, fc.string({ maxLength: 8 })), { maxLength: 10 })
    .map((lines) => lines.join(""));
  const rewritten = async (pieces: Iterable<Buffer>) => {
    const rewrite = rewriteRequestHead({ Host: "camera" });
    for (const piece of pieces) rewrite.write(piece);
    rewrite.end();
    return (await buffer(rewrite.pipe(new PassThrough()))).toString("latin1");
  };
  await fc.assert(
    fc.asyncProperty(request, steps, async (text, sizes) => {
      const bytes = Buffer.from(text, "latin1");
      const whole = await rewritten([bytes]);
      assert.equal(await rewritten(inPieces(bytes, sizes)), whole);
      const end = bytes.indexOf("\r\n\r\n");
      if (end >= 0) assert.ok(whole.endsWith(bytes.toString("latin1", end)));
      if (whole === bytes.toString("latin1")) return;
      assert.match(whole, /^[A-Z]+ \S+ HTTP\/1\.[01]\r\nHost: camera\r\n/);
      assert.doesNotMatch(whole.slice(0, whole.indexOf("\r\n\r\n")).replace("\r\nHost: camera", ""), /\r\nhost *:/i);
    }),
    { numRuns: 500 },
  );
});

test("any output of ustreamer and probe-rs is read or refused", () => {
  fc.assert(
    fc.property(
      fc.oneof(fc.string(), fc.json(), fc.string({ unit: fc.constantFrom("a", "0", " ", "\n", "x") })),
      (text) => {
        try {
          assert.ok(Number.isInteger(readState(text).fps));
        } catch (error) {
          assert.match((error as Error).name, /^(SyntaxError|ZodError)$/);
        }
        try {
          for (const word of hexWords(text)) assert.ok(Number.isFinite(Number(`0x${word}`)));
        } catch (error) {
          assert.match((error as Error).message, /no words of memory/);
        }
      },
    ),
    { numRuns },
  );
});
