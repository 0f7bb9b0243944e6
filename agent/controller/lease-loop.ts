import { initialLeaseState, leaseStep } from "./lease-machine.ts";
import type { LeaseEffect, LeaseEvent, LeaseRules, LeaseState } from "./lease-machine.ts";

/** Does what the lease machine asks for; each effect tells its result by `dispatch`. */
export type PerformEffect = (effect: LeaseEffect, dispatch: (event: LeaseEvent) => void) => void;

/** Runs the lease machine: events in, effects out, one after the other. */
export class LeaseLoop {
  readonly #rules: () => LeaseRules;
  readonly #perform: PerformEffect;
  readonly #events: LeaseEvent[] = [];
  #state = initialLeaseState;
  #running = false;

  constructor(rules: () => LeaseRules, perform: PerformEffect) {
    this.#rules = rules;
    this.#perform = perform;
  }

  get state(): LeaseState {
    return this.#state;
  }

  /** Takes an event; one that comes of an effect waits until that step is done. */
  dispatch(event: LeaseEvent): void {
    this.#events.push(event);
    if (this.#running) return;
    this.#running = true;
    try {
      for (let next = this.#events.shift(); next !== undefined; next = this.#events.shift()) {
        const { state, effects } = leaseStep(this.#state, next, this.#rules());
        this.#state = state;
        for (const effect of effects) this.#perform(effect, (result) => this.dispatch(result));
      }
    } finally {
      this.#running = false;
    }
  }
}
