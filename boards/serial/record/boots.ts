import type { Moment } from "./protocol.ts";

/** One start of the board: from power on to the pattern. */
export interface Boot {
  /** When it was switched on, RFC 3339. */
  readonly at: string;
  readonly seconds: number;
}

/** No more of a line is looked at: the pattern is the configuration's, the line is the board's. */
const longestLine = 1_024;
/** Who has not booted by then will not be waited for any longer. */
const limitUs = 30 * 60 * 1e6;
const mostBoots = 20;

/** Times the starts of a board. */
export class BootWatch {
  readonly #pattern: RegExp;
  #poweredOn: Moment | undefined;
  #line = "";
  /** The last ones, oldest first. */
  readonly boots: Boot[] = [];

  constructor(pattern: RegExp) {
    this.#pattern = pattern;
  }

  powered(on: boolean, at: Moment): void {
    this.#poweredOn = on ? at : undefined;
    this.#line = "";
  }

  /** Looks at what the board prints: whole lines, and parts of lines as they come. @returns the boot that is over with it */
  output(bytes: Uint8Array, at: Moment): Boot | undefined {
    const on = this.#poweredOn;
    if (on === undefined) return undefined;
    if (at.monotonicUs - on.monotonicUs > limitUs) {
      this.#poweredOn = undefined;
      return undefined;
    }
    const lines = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("utf8").split("\n");
    for (const [index, text] of lines.entries()) {
      this.#line = index === 0 ? (this.#line + text).slice(0, longestLine) : text.slice(0, longestLine);
      if (this.#line === "" || !this.#pattern.test(this.#line.replace(/\r$/, ""))) continue;
      this.#poweredOn = undefined;
      const boot = {
        at: new Date(on.wallUs / 1_000).toISOString(),
        seconds: (at.monotonicUs - on.monotonicUs) / 1e6,
      };
      this.boots.push(boot);
      if (this.boots.length > mostBoots) this.boots.shift();
      return boot;
    }
    return undefined;
  }
}
