/** Firmware files that an ST-LINK takes. */

/** Lower-case extension with its dot, as Python's splitext finds it; empty if there is none. */
export function extensionOf(name: string): string {
  return /[^.](\.[^.]*)$/.exec(name.toLowerCase())?.[1] ?? "";
}

export const firmwareExtensions: readonly string[] = [".bin", ".hex"];

const endOfFileRecord = 1;
const highestRecord = 5;
/** A record of 255 bytes, with room to spare. */
const longestLine = 600;

/**
 * Checks Intel HEX (Hexadecimal Object File Format Specification, revision A) as it comes.
 * @throws Error naming the line
 */
export class IntelHexCheck {
  #line = 1;
  #rest = "";
  #ended = false;

  add(piece: string): void {
    const lines = (this.#rest + piece).split("\n");
    this.#rest = lines.pop() ?? "";
    for (const line of lines) {
      this.#record(line);
      this.#line += 1;
    }
    if (this.#rest.length > longestLine) throw this.#error("is no record");
  }

  end(): void {
    this.#record(this.#rest);
    if (!this.#ended) throw new Error("the record that ends the file is missing: it was cut off");
  }

  #record(line: string): void {
    const text = line.trim();
    if (text === "") return;
    if (this.#ended) throw this.#error("follows the record that ends the file");
    if (!/^:([0-9a-fA-F]{2}){5,}$/.test(text)) throw this.#error("is no record");
    const bytes = Uint8Array.from(text.slice(1).match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
    const [count = 0, , , type = 0] = bytes;
    if (bytes.length !== count + 5) throw this.#error(`says ${count} bytes and has ${bytes.length - 5}`);
    if (type > highestRecord) throw this.#error(`has the unknown type ${type}`);
    if ((bytes.reduce((sum, byte) => sum + byte, 0) & 0xff) !== 0) throw this.#error("has a wrong checksum");
    this.#ended = type === endOfFileRecord;
  }

  #error(problem: string): Error {
    return new Error(`line ${this.#line} ${problem}`);
  }
}
