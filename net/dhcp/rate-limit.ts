import { macText } from "./protocol.ts";

/** A bucket of so many messages, that fills again at so many per second. */
interface Rate {
  readonly burst: number;
  readonly perSecond: number;
}

export interface Rates {
  readonly perMac: Rate;
  readonly all: Rate;
  /** How many clients are told apart; who has been quiet for longest is forgotten. */
  readonly macs: number;
}

class Bucket {
  #level: number;
  #filledMs = performance.now();
  readonly #rate: Rate;

  constructor(rate: Rate) {
    this.#rate = rate;
    this.#level = rate.burst;
  }

  take(): boolean {
    const nowMs = performance.now();
    const { burst, perSecond } = this.#rate;
    this.#level = Math.min(burst, this.#level + ((nowMs - this.#filledMs) / 1000) * perSecond);
    this.#filledMs = nowMs;
    if (this.#level < 1) return false;
    this.#level -= 1;
    return true;
  }
}

/** Neither one client in a loop nor a flood of made-up ones may take all of our time. */
export class RateLimit {
  readonly #rates: Rates;
  readonly #all: Bucket;
  readonly #perMac = new Map<string, Bucket>();

  constructor(rates: Rates) {
    this.#rates = rates;
    this.#all = new Bucket(rates.all);
  }

  allows(hardwareAddress: Uint8Array): boolean {
    const mac = macText(hardwareAddress);
    const bucket = this.#perMac.get(mac) ?? new Bucket(this.#rates.perMac);
    // The order of the map is that of use.
    this.#perMac.delete(mac);
    this.#perMac.set(mac, bucket);
    if (this.#perMac.size > this.#rates.macs) {
      for (const [quietest] of this.#perMac) {
        this.#perMac.delete(quietest);
        break;
      }
    }
    return bucket.take() && this.#all.take();
  }
}
