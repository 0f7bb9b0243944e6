import { Duplex, Transform } from "node:stream";

/**
 * A bus believes what the kernel says about the process at its socket, and that is us. A client on another machine says its
 * own user (EXTERNAL, D-Bus specification, "Authentication Mechanisms"), which the bus then refuses; so it is ours that is
 * said for it. That gives nobody more rights: a client could say our user by itself.
 */
export function asUser(socket: Duplex, uid: number): Duplex {
  const identity = new Identity(Buffer.from(String(uid)).toString("hex"));
  const said = new Transform({
    transform: (chunk: Buffer, _encoding, done) => done(null, identity.pass(chunk)),
    flush: (done) => done(null, identity.rest()),
  });
  said.pipe(socket);
  socket.once("close", () => said.destroy());
  const stream = Duplex.from({ readable: socket, writable: said });
  // May break between two readers; it stays in `errored`.
  stream.on("error", () => {});
  return stream;
}

/** A line of the conversation is short; what is longer is none. */
const longestLineBytes = 16 * 1024;

/** The client's side of the conversation before the first message, with another user in it. */
export class Identity {
  readonly #hex: string;
  /** A line that has no end yet; undefined when the conversation is over. */
  #line: Buffer | undefined = Buffer.alloc(0);
  /** It was EXTERNAL that the client asked for last. */
  #external = false;

  /** @param hex the user as EXTERNAL has it: the decimal number, in hex */
  constructor(hex: string) {
    this.#hex = hex;
  }

  /** @returns what goes to the bus now */
  pass(chunk: Buffer): Buffer {
    if (this.#line === undefined) return chunk;
    let bytes = Buffer.concat([this.#line, chunk]);
    const out: Buffer[] = [];
    for (;;) {
      const end = bytes.indexOf("\r\n");
      if (end < 0) break;
      const line = bytes.subarray(0, end).toString("latin1");
      bytes = bytes.subarray(end + 2);
      out.push(Buffer.from(`${this.#rewrite(line)}\r\n`, "latin1"));
      if (line !== "BEGIN") continue;
      this.#line = undefined;
      return Buffer.concat([...out, bytes]);
    }
    this.#line = bytes.length > longestLineBytes ? undefined : bytes;
    return Buffer.concat(this.#line === undefined ? [...out, bytes] : out);
  }

  /** What is left when the client ends. */
  rest(): Buffer {
    return this.#line ?? Buffer.alloc(0);
  }

  /** Where a client says no user, the bus takes that of the socket by itself. */
  #rewrite(line: string): string {
    // Before the first line there is a zero byte, which carries credentials on a local socket.
    const [, start = "", mechanism = "", user = ""] = /^(\0?AUTH) ?(\S*) ?(.*)$/.exec(line) ?? [];
    if (start !== "") {
      this.#external = mechanism === "EXTERNAL";
      return this.#external && user !== "" ? `${start} EXTERNAL ${this.#hex}` : line;
    }
    return this.#external && /^DATA ./.test(line) ? `DATA ${this.#hex}` : line;
  }
}
