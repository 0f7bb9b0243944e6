import { release } from "node:os";
import type { Entry } from "../../driver/entry.ts";
import { toAgentError } from "../../driver/errors.ts";
import type { Logger } from "../../driver/log.ts";
import type { FlashReceipt, ReceiptKeeper } from "../../driver/receipt.ts";
import { configDigest } from "./config-digest.ts";
import type { ReceiptStore } from "./store.ts";

/** What an exporter adds to the receipts of its drivers. */
export interface ExporterFacts {
  readonly exporter: string;
  /** Name of the lease that is served now. */
  readonly lease?: () => string | undefined;
  /** What it exports now. */
  readonly exported: () => Readonly<Record<string, Entry>>;
  readonly log: Pick<Logger, "warn">;
}

/** Makes the keeper of one exporter. */
export type ReceiptKeepers = (exporter: ExporterFacts) => ReceiptKeeper;

/** A disk that does not answer must not hold up a flash. */
const patienceMs = 10_000;
/** Lists of ranges that would make a receipt larger than this are left out. */
const mostRanges = 50_000;

/**
 * Keeps receipts in a store. What cannot be kept costs a warning, never the flash.
 * @param version of the agent
 */
export function keepReceipts(store: ReceiptStore, version: string, facts: ExporterFacts): ReceiptKeeper {
  const { exporter, log } = facts;
  const attempt = async (what: string, work: Promise<void>): Promise<boolean> => {
    try {
      await withPatience(work);
      return true;
    } catch (error) {
      log.warn(`${what} in ${store.directory}: ${toAgentError(error).message}`);
      return false;
    }
  };
  return {
    async begin(start) {
      const id = store.newId(exporter);
      const known = { exporter, lease: facts.lease?.(), configSha256: configDigest(facts.exported()) };
      const versions = { "jumpstarter-agent": version, node: process.versions.node, kernel: release() };
      await attempt("the beginning of this flash is not kept", store.begin({ id, ...known, versions, ...start }));
      return {
        async end(report) {
          const receipt: FlashReceipt = {
            format: "jumpstarter-agent/flash-receipt/v1",
            id,
            ...known,
            ...withFewRanges(report, log),
            versions: { ...versions, ...report.versions },
          };
          if (await attempt("the receipt of this flash is not kept", store.end(id, receipt))) return receipt;
          return { ...receipt, id: undefined };
        },
      };
    },
  };
}

function withFewRanges<T extends Pick<FlashReceipt, "ranges">>(report: T, log: Pick<Logger, "warn">): T {
  const { written, unchanged } = report.ranges ?? { written: [], unchanged: [] };
  if (written.length + unchanged.length <= mostRanges) return report;
  log.warn(`the receipt leaves out ${written.length} written and ${unchanged.length} unchanged ranges`);
  return { ...report, ranges: undefined };
}

async function withPatience(work: Promise<void>): Promise<void> {
  let limit: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    limit = setTimeout(() => reject(new Error(`the disk does not answer within ${patienceMs / 1_000} s`)), patienceMs);
  });
  try {
    await Promise.race([work, late]);
  } finally {
    clearTimeout(limit);
  }
}
