import { randomBytes, type KeyObject } from "node:crypto";
import { readdir, readFile, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { AgentError, toAgentError } from "../../driver/errors.ts";
import type { FlashReceipt, FlashStart } from "../../driver/receipt.ts";
import { makeDirectoryDurably, writeDurably } from "../../stream/durable.ts";
import { parseReceipt, receiptText } from "./format.ts";
import { identityOf, isAlive, type ProcessIdentity } from "./process-identity.ts";
import { signReceipt } from "./signature.ts";

export interface ReceiptStoreOptions {
  readonly directory: string;
  /** Signs what is kept from now on. */
  readonly key?: KeyObject | undefined;
  /** The oldest go when there are more. */
  readonly maxReceipts?: number;
  readonly maxBytes?: number;
}

/** What a receipt says before the flash does anything, and whose it is. */
export type ReceiptStart = FlashStart &
  Pick<FlashReceipt, "exporter" | "lease" | "configSha256" | "versions"> & { readonly id: string };

/** What the directory holds of one flash. */
export type KeptFlash =
  | { readonly id: string; readonly state: "ended"; readonly receipt: FlashReceipt; readonly signed: boolean }
  | { readonly id: string; readonly state: "running"; readonly start: ReceiptStart }
  | { readonly id: string; readonly state: "damaged"; readonly problem: string };

/** Whatever lies in the directory is not read beyond this. */
const maxFileBytes = 16 * 1024 * 1024;

/** Nobody writes on a small file for so long. */
const halfMs = 60_000;

const suffixes = { receipt: ".json", envelope: ".dsse.json", start: ".started.json" } as const;

/**
 * Receipts of flashes: `ID.json`, `ID.dsse.json` with its signature, and `ID.started.json` while the flash goes on. A start without a
 * receipt whose process is gone is a flash that was interrupted. All agents of a host may share the directory.
 */
export class ReceiptStore {
  readonly directory: string;
  readonly #key: KeyObject | undefined;
  readonly #maxReceipts: number;
  readonly #maxBytes: number;

  constructor({ directory, key, maxReceipts = 2_000, maxBytes = 64 * 1024 * 1024 }: ReceiptStoreOptions) {
    this.directory = directory;
    this.#key = key;
    this.#maxReceipts = maxReceipts;
    this.#maxBytes = maxBytes;
  }

  path(id: string, kind: keyof typeof suffixes): string {
    return join(this.directory, id + suffixes[kind]);
  }

  /** A name for the flash of an exporter that begins now; names sort by time. */
  newId(exporter: string, now = new Date()): string {
    const time = now.toISOString().replaceAll(/[-:.]/g, "");
    const name = exporter.replaceAll(/[^\w-]/g, "_").slice(0, 63);
    return `${time}-${name}-${randomBytes(3).toString("hex")}`;
  }

  /** Says that a flash begins. @throws the system's error */
  async begin(start: ReceiptStart): Promise<void> {
    await makeDirectoryDurably(this.directory);
    await writeDurably(this.path(start.id, "start"), receiptStartText(start, await identityOf(process.pid)));
  }

  /** Keeps a receipt, and with it the end of its flash. @throws the system's error */
  async end(id: string, receipt: FlashReceipt): Promise<void> {
    await makeDirectoryDurably(this.directory);
    const text = receiptText(receipt);
    // The receipt comes last: where it is, its signature is, too.
    if (this.#key !== undefined) await writeDurably(this.path(id, "envelope"), signReceipt(text, this.#key));
    await writeDurably(this.path(id, "receipt"), text);
    await rm(this.path(id, "start"), { force: true });
    // What is too old and stays is no reason to say that this one was not kept.
    await this.#prune(id).catch(() => {});
  }

  /** Writes the receipts of flashes whose process is gone. @returns them @throws the system's error */
  async settle(): Promise<FlashReceipt[]> {
    const names = await this.#names();
    const settled: FlashReceipt[] = [];
    await this.#removeHalves(names);
    for (const id of idsOf(names, "start")) {
      if (names.has(id + suffixes.receipt)) {
        // It ended, and was killed before it could remove this.
        if (!(await this.#isRunning(id))) await rm(this.path(id, "start"), { force: true });
        continue;
      }
      const flash = await this.#read(id, names);
      if (flash.state === "ended") {
        await this.end(id, flash.receipt);
        settled.push(flash.receipt);
      } else if (flash.state === "damaged") await rm(this.path(id, "start"), { force: true });
    }
    return settled;
  }

  /** All that is known, oldest first. A directory that is not there holds nothing. @throws AgentError E_IO */
  async list(): Promise<KeptFlash[]> {
    const names = await this.#names();
    const ids = new Set([...idsOf(names, "receipt"), ...idsOf(names, "start")]);
    const flashes: KeptFlash[] = [];
    for (const id of [...ids].sort()) flashes.push(await this.#read(id, names));
    return flashes;
  }

  /** The names of all flashes, oldest first: those that have a receipt, and those that have not. @throws AgentError E_IO */
  async ids(): Promise<{ readonly ended: string[]; readonly running: string[] }> {
    const names = await this.#names();
    const ended = idsOf(names, "receipt").sort();
    const running = idsOf(names, "start").filter((id) => !names.has(id + suffixes.receipt));
    return { ended, running: running.sort() };
  }

  /** @param start of its id, as long as no other has it. @throws AgentError E_USAGE */
  async find(start: string): Promise<string> {
    const names = await this.#names();
    const ids = [...new Set([...idsOf(names, "receipt"), ...idsOf(names, "start")])].sort();
    const last = ids.at(-1);
    if (start === "latest" && last !== undefined) return last;
    const found = ids.filter((id) => id === start || (start !== "" && id.startsWith(start)));
    const [only, ...others] = found;
    if (only !== undefined && (others.length === 0 || only === start)) return only;
    const what = only === undefined ? "no receipt" : `${found.length} receipts`;
    const verb = only === undefined ? "begins" : "begin";
    throw new AgentError("E_USAGE", `${what} in ${this.directory} ${verb} with ${JSON.stringify(start)}`, {
      hint: "'jmp-agent receipts list' shows them",
    });
  }

  async get(id: string): Promise<KeptFlash> {
    return await this.#read(id, await this.#names());
  }

  async #read(id: string, names: ReadonlySet<string>): Promise<KeptFlash> {
    try {
      if (names.has(id + suffixes.receipt)) {
        const receipt = parseReceipt(await readBounded(this.path(id, "receipt")));
        return { id, state: "ended", receipt, signed: names.has(id + suffixes.envelope) };
      }
      const { process, ...start } = await this.#readStart(id);
      if (await isAlive(process)) return { id, state: "running", start };
      return { id, state: "ended", receipt: interrupted(start), signed: false };
    } catch (error) {
      return { id, state: "damaged", problem: toAgentError(error).message };
    }
  }

  async #readStart(id: string): Promise<ReceiptStart & { process: ProcessIdentity }> {
    const { process, ...start } = JSON.parse(await readBounded(this.path(id, "start"))) as Record<string, unknown>;
    // What is wrong with it is found where a receipt is made of it.
    const { exporter } = parseReceipt(receiptText(interrupted(start as unknown as ReceiptStart)));
    return { ...(start as unknown as ReceiptStart), exporter, process: process as ProcessIdentity };
  }

  async #isRunning(id: string): Promise<boolean> {
    return await this.#readStart(id).then(
      ({ process }) => isAlive(process),
      () => false,
    );
  }

  /** What a process that was killed has half written: it had no name yet. */
  async #removeHalves(names: ReadonlySet<string>): Promise<void> {
    for (const name of names) {
      if (!/\.json\.[0-9a-f]{12}\.tmp$/.test(name)) continue;
      const path = join(this.directory, name);
      const { mtimeMs = Date.now() } = (await stat(path).catch(() => undefined)) ?? {};
      if (Date.now() - mtimeMs > halfMs) await rm(path, { force: true });
    }
  }

  /** The oldest receipts go, until the rest is few enough and small enough; the one just written stays. */
  async #prune(newest: string): Promise<void> {
    const names = await this.#names();
    let bytes = 0;
    let receipts = 0;
    for (const id of idsOf(names, "receipt").sort().reverse()) {
      receipts += 1;
      for (const kind of ["receipt", "envelope"] as const) {
        if (!names.has(id + suffixes[kind])) continue;
        bytes += (await stat(this.path(id, kind)).catch(() => undefined))?.size ?? 0;
      }
      if (id === newest || (receipts <= this.#maxReceipts && bytes <= this.#maxBytes)) continue;
      await rm(this.path(id, "receipt"), { force: true });
      await rm(this.path(id, "envelope"), { force: true });
    }
  }

  async #names(): Promise<Set<string>> {
    try {
      return new Set(await readdir(this.directory));
    } catch (thrown) {
      if ((thrown as NodeJS.ErrnoException).code === "ENOENT") return new Set();
      throw toAgentError(thrown);
    }
  }
}

/** What can be said of a flash that nobody has ended. */
function interrupted(start: ReceiptStart): FlashReceipt {
  return {
    format: "jumpstarter-agent/flash-receipt/v1",
    ...start,
    verdict: "interrupted",
    failure: {
      step: "flash",
      code: "E_FAILED",
      message: "the agent ended while it flashed; what the disk holds is not known",
    },
    steps: [],
  };
}

function receiptStartText(start: ReceiptStart, process: ProcessIdentity): string {
  return JSON.stringify({ ...start, process }, undefined, 2) + "\n";
}

function idsOf(names: ReadonlySet<string>, kind: "receipt" | "start"): string[] {
  const suffix = suffixes[kind];
  const other = kind === "receipt" ? [suffixes.envelope, suffixes.start] : [];
  return [...names]
    .filter((name) => name.endsWith(suffix) && !other.some((ending) => name.endsWith(ending)))
    .map((name) => name.slice(0, -suffix.length));
}

export async function readBounded(path: string): Promise<string> {
  try {
    const { size } = await stat(path);
    if (size > maxFileBytes) throw new AgentError("E_LIMIT", `${path} is larger than ${maxFileBytes} bytes`);
    return await readFile(path, "utf8");
  } catch (thrown) {
    throw toAgentError(thrown);
  }
}
