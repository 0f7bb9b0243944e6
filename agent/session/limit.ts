import { AgentError } from "../driver/errors.ts";

/** Counts things that live at the same time and refuses one too many. */
export class Limit {
  readonly #most: number;
  readonly #what: string;
  #now = 0;

  constructor(most: number, what: string) {
    this.#most = most;
    this.#what = what;
  }

  get now(): number {
    return this.#now;
  }

  /** @returns a function that counts it out again. @throws AgentError E_LIMIT */
  enter(): () => void {
    if (this.#now >= this.#most) {
      throw new AgentError("E_LIMIT", `this exporter serves no more than ${this.#most} ${this.#what} at once`);
    }
    this.#now += 1;
    let left = false;
    return () => {
      if (!left) this.#now -= 1;
      left = true;
    };
  }
}
