import type { Logger } from "../../agent/driver/log.ts";
import type { Bundle } from "../bundle.ts";
import type { FlasherManifest } from "../manifest.ts";
import { formatReference, type Reference } from "../oci/reference.ts";

export interface OpenedBundle {
  readonly bundle: Bundle;
  /** The manifest as it was written, and as it was understood. */
  readonly yaml: string;
  readonly manifest: FlasherManifest;
}

export interface FlasherLeaseOptions {
  /** The bundle of the configuration. */
  readonly configured: Reference;
  readonly variant: string | null;
  readonly open: (reference: Reference) => Promise<OpenedBundle>;
  readonly log: Logger;
}

/** What a lease has chosen; all of it ends with the lease. */
export class FlasherLease {
  readonly #options: FlasherLeaseOptions;
  /** By complete reference: within a lease a bundle does not change, whatever happens to its tag. */
  readonly #opened = new Map<string, Promise<OpenedBundle>>();
  #wanted: Reference;
  /** The bundle whose manifest was told to a client. */
  #told: string | undefined;
  /** Name of the device tree variant; null for the manifest's default. */
  variant: string | null;
  /** Whether boot files are in place. */
  isStaged = false;

  constructor(options: FlasherLeaseOptions) {
    this.#options = options;
    this.#wanted = options.configured;
    this.variant = options.variant;
  }

  /** Uses another bundle from now on. */
  force(reference: Reference): void {
    const name = formatReference(reference);
    if (this.#told !== undefined && this.#told !== name) {
      this.#options.log.warn(
        `from now on ${name} is used; a client that has read the manifest of ${this.#told} keeps it`,
      );
    }
    this.#wanted = reference;
  }

  /** The bundle in use; pulled if it is not here. A caller who gives up does not end the pull. */
  async bundle(signal: AbortSignal): Promise<OpenedBundle> {
    const name = formatReference(this.#wanted);
    const underWay = this.#opened.get(name) ?? this.#options.open(this.#wanted);
    this.#opened.set(name, underWay);
    underWay.catch(() => this.#opened.delete(name));
    return await unlessAborted(underWay, signal);
  }

  /** The bundle in use, for a client that will keep its manifest. */
  async tell(signal: AbortSignal): Promise<OpenedBundle> {
    this.#told = formatReference(this.#wanted);
    return await this.bundle(signal);
  }

  /** Bundles may leave the cache again; those under way, once they are here. */
  end(): void {
    for (const opened of this.#opened.values()) {
      opened.then(
        ({ bundle }) => bundle.release(),
        () => {},
      );
    }
  }
}

/** Waits for a promise that goes on without the caller. */
async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  signal.throwIfAborted();
  let stop: (() => void) | undefined;
  const aborted = new Promise<never>((_, reject) => {
    stop = () => reject(signal.reason as Error);
    signal.addEventListener("abort", stop, { once: true });
  });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    if (stop !== undefined) signal.removeEventListener("abort", stop);
  }
}
