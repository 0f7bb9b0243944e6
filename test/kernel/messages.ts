/** What the host and the guest say to each other, as lines of JSON over a serial port of the machine. */

export type FromGuest =
  | { readonly type: "ready" }
  | { readonly type: "test"; readonly test: GuestTest }
  | { readonly type: "ended"; readonly code: number | null; readonly signal: string | null; readonly output: string }
  | { readonly type: "qmp"; readonly id: number; readonly command: string; readonly args: object };

export type FromHost =
  | { readonly type: "run"; readonly file: string; readonly timeoutMs: number }
  | { readonly type: "qmp"; readonly id: number; readonly result?: unknown; readonly error?: string };

/** One test, or a suite that failed by itself. */
export interface GuestTest {
  /** With the names of the tests and suites it is in. */
  readonly name: string;
  /** How long it took. */
  readonly ms: number;
  /** Why it failed. */
  readonly error?: string;
  /** Why it was left out. */
  readonly skip?: string;
}

/** Calls back with each message of a stream of lines. */
export function readMessages<Message>(take: (message: Message) => void): (chunk: Buffer) => void {
  let rest = "";
  const decoder = new TextDecoder();
  return (chunk) => {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) if (line !== "") take(JSON.parse(line) as Message);
  };
}
