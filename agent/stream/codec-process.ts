import { spawn, type ChildProcessByStdio } from "node:child_process";
import { closeSync } from "node:fs";
import { Duplex, type Readable, type Writable } from "node:stream";
import { AgentError, isSystemError } from "../driver/errors.ts";
import type { InputPipe } from "../sys/pipe.ts";
import { bytesOf, type ByteSource } from "./byte-source.ts";

const longestComplaint = 2_000;

/** A program that turns its input into its output, as a Duplex. It is killed when the Duplex is destroyed. */
export class CodecProcess extends Duplex {
  /** What comes out, for those who do not read it as a stream. */
  readonly content: ByteSource;
  readonly #child: ChildProcessByStdio<Writable, Readable | null, Readable>;
  readonly #output: InputPipe | undefined;
  readonly #closed: Promise<void>;
  #complaint = "";

  /** @param output what comes out goes there and is read as `content` only; it is closed with the Duplex */
  constructor(program: string, args: readonly string[], output?: InputPipe) {
    super({ highWaterMark: 1024 * 1024 });
    const child = spawn(program, args, {
      stdio: ["pipe", output?.writeFd ?? "pipe", "pipe"],
      env: { ...process.env, LC_ALL: "C" },
    }) as ChildProcessByStdio<Writable, Readable | null, Readable>;
    this.#child = child;
    this.#output = output;
    // Its end is there when nobody can write any more.
    if (output !== undefined) closeSync(output.writeFd);
    this.content = output === undefined ? bytesOf(this) : { read: (memory) => this.#next(output, memory) };
    this.#closed = new Promise((resolve) => child.once("close", resolve));
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      this.#complaint = (this.#complaint + text).slice(0, longestComplaint);
    });
    child.stdout?.on("data", (chunk: Buffer) => {
      // What has been given up takes nothing any more, but the program ends only when its output has been read.
      if (!this.push(chunk) && !this.destroyed) child.stdout?.pause();
    });
    // A program that stops reading says why by its exit status; the broken pipe is only the consequence.
    child.stdin.on("error", () => {});
    child.once("error", (error) => {
      const missing = isSystemError(error) && error.code === "ENOENT";
      this.destroy(missing ? new AgentError("E_UNSUPPORTED", `the program ${program} is not installed`) : error);
    });
    child.once("close", (code, signal) => {
      if (this.destroyed) return;
      if (code === 0) this.push(null);
      else {
        const why = this.#complaint.trim() || `ended by ${signal ?? `exit status ${code}`}`;
        this.destroy(new AgentError("E_ENCODING", why.startsWith(`${program}:`) ? why : `${program}: ${why}`));
      }
    });
  }

  async #next(output: InputPipe, memory: Buffer): Promise<number> {
    const count = this.destroyed ? 0 : await output.read(memory);
    // Only how the program ends tells whether that was all.
    if (count === 0) await this.#closed;
    if (this.destroyed) throw this.errored ?? new Error("the decoder is closed");
    return count;
  }

  override _read(): void {
    this.#child.stdout?.resume();
  }

  override _write(chunk: Buffer, _encoding: string, done: (error?: Error | null) => void): void {
    const { stdin } = this.#child;
    if (stdin.destroyed || stdin.writableEnded) done();
    else stdin.write(chunk, () => done());
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#child.stdin.end(() => done());
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#child.kill("SIGKILL");
    this.#child.stdin.destroy();
    this.#child.stdout?.resume();
    const ended = () => {
      this.#output?.close();
      done(error);
    };
    if (this.#child.pid === undefined) ended();
    else void this.#closed.then(ended);
  }
}
