import type { Readable, Writable } from "node:stream";
import { readMessages } from "./messages.ts";

interface Answer {
  readonly id?: number;
  readonly return?: unknown;
  readonly error?: { readonly desc: string };
  readonly event?: string;
  readonly data?: { readonly device?: string };
}

/** QEMU's control protocol over the standard streams of QEMU. */
export class Qmp {
  readonly #input: Writable;
  readonly #waiting = new Map<number, (answer: Answer) => void>();
  readonly #deletions = new Map<string, () => void>();
  #lastId = 0;

  constructor(input: Writable, output: Readable) {
    this.#input = input.on("error", () => {});
    output.on(
      "data",
      readMessages<Answer>((answer) => {
        if (answer.id !== undefined) this.#waiting.get(answer.id)?.(answer);
        if (answer.event === "DEVICE_DELETED") this.#deletions.get(answer.data?.device ?? "")?.();
      }),
    );
    void this.execute("qmp_capabilities", {});
  }

  /** Done with device_del only when the device has gone. Rejects with what QEMU has against it. */
  async execute(command: string, args: object): Promise<unknown> {
    const id = ++this.#lastId;
    const gone = command === "device_del" ? this.#deletionOf((args as { id: string }).id) : undefined;
    const answered = new Promise<Answer>((resolve) => this.#waiting.set(id, resolve));
    this.#input.write(JSON.stringify({ execute: command, arguments: args, id }) + "\n");
    const answer = await answered;
    this.#waiting.delete(id);
    if (answer.error !== undefined) throw new Error(`${command}: ${answer.error.desc}`);
    await gone;
    return answer.return;
  }

  #deletionOf(device: string): Promise<void> {
    return new Promise((resolve) => this.#deletions.set(device, resolve));
  }
}
