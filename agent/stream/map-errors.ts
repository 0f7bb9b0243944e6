import type { Readable, Writable } from "node:stream";

/** Gives the errors a stream ends with other words, whoever destroys it. */
export function mapErrors(stream: Readable | Writable, map: (error: Error) => Error): void {
  const destroy = stream._destroy.bind(stream);
  stream._destroy = (error, done) => destroy(error === null ? null : map(error), done);
}
