import { Transform } from "node:stream";

/** Longer ones are left as they are. */
const mostHeadBytes = 16 * 1024;

const beginsLikeRequest = /^[A-Z]{1,20}( |$)/;
const requestHead = /^[A-Z]{1,20} [\x21-\x7e]+ HTTP\/1\.[01]\r\n/;

/**
 * Puts other headers into the first HTTP/1 request of a stream. What is no such request passes unchanged, and so does
 * everything after its head.
 * @param headers they replace those of the same name
 */
export function rewriteRequestHead(headers: Readonly<Record<string, string>>): Transform {
  let held: Buffer | undefined = Buffer.alloc(0);
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      if (held === undefined) return done(null, chunk);
      held = Buffer.concat([held, chunk]);
      const end = held.indexOf("\r\n\r\n");
      const waits = end < 0 && held.length < mostHeadBytes && beginsLikeRequest.test(held.toString("latin1", 0, 21));
      if (waits) return done();
      const whole = end < 0 || end > mostHeadBytes ? held : replaced(held, end, headers);
      held = undefined;
      done(null, whole);
    },
    flush(done) {
      done(null, held);
    },
  });
}

function replaced(bytes: Buffer, end: number, headers: Readonly<Record<string, string>>): Buffer {
  const head = bytes.toString("latin1", 0, end + 2);
  const [requestLine] = requestHead.exec(head) ?? [];
  if (requestLine === undefined) return bytes;
  const names = new Set(Object.keys(headers).map((name) => name.toLowerCase()));
  const kept = head
    .slice(requestLine.length)
    .split(/(?<=\r\n)/)
    .filter((line) => !names.has((/^[^:]*/.exec(line)?.[0] ?? "").trim().toLowerCase()));
  const given = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  return Buffer.concat([Buffer.from([requestLine, ...given, ...kept].join(""), "latin1"), bytes.subarray(end + 2)]);
}
