import type { AgentError } from "./errors.ts";
import type { ContentEncoding } from "./resource.ts";

/** One step, as it went. Times in milliseconds since the start. */
export interface FlashStep {
  readonly name: string;
  readonly startMs: number;
  readonly durationMs: number;
  readonly verdict: "ok" | "failed";
  /** What it moved, where it moves bytes. */
  readonly bytes?: number | undefined;
  /** From 1, in a flash that is tried again. */
  readonly attempt?: number | undefined;
}

/** A file that was offered to a board to boot from. */
export interface BootFile {
  readonly name: string;
  readonly address: string;
  readonly bytes: number;
  readonly sha256: string;
}

/** Bytes from `start` up to, but not including, `end`. */
export interface ByteRange {
  readonly start: number;
  readonly end: number;
}

/** The disk that was written, as far as it says what it is. */
export interface FlashTarget {
  /** `/dev/sda` at the host, or the block device on the board. */
  readonly path: string;
  readonly bytes?: number | undefined;
  /** Vendor and model of the disk, or an SD card's name. */
  readonly model?: string | undefined;
  readonly serial?: string | undefined;
  /** Card identification register of an SD card, in hex. */
  readonly cid?: string | undefined;
}

/** What a driver knows of a flash when it has ended. Missing parts were not reached. */
export interface FlashReport {
  /**
   * `written`: acknowledged by the device, but not read back, as it was asked for. `interrupted`: the agent ended in the middle.
   */
  readonly verdict: "verified" | "written" | "failed" | "interrupted";
  /** The step that failed first, and why. */
  readonly failure?: { readonly step: string; readonly code: AgentError["code"]; readonly message: string } | undefined;
  /** ISO 8601 */
  readonly startedAt: string;
  /** Not known of an interrupted flash. */
  readonly durationMs?: number | undefined;
  /** Dotted path of the driver that flashed. */
  readonly driver: string;
  /** `netboot-…`: from a small system on the board; `block`: by the host, which had the medium. */
  readonly method: "netboot-shell" | "netboot-fls" | "block";
  readonly image: {
    /** As the user named it; undefined for a stream. Without credentials. */
    readonly name?: string | undefined;
    /** Of the file as given. */
    readonly bytes?: number | undefined;
    readonly sha256?: string | undefined;
    readonly encoding: ContentEncoding | null;
    /** What belongs on the disk. */
    readonly content?:
      | {
          /** Holes included. */
          readonly bytes: number;
          /** Without the holes; undefined if it has none. */
          readonly mappedBytes?: number | undefined;
          /** Of all that is mapped, one after the other: that of the image itself if it has no holes. */
          readonly sha256: string;
        }
      | undefined;
  };
  readonly bundle?:
    | {
        readonly name: string;
        /** Complete reference, and the digest of its image manifest; undefined for a plain directory. */
        readonly reference?: string | undefined;
        readonly digest?: string | undefined;
        /** Digest of the text of its `manifest.yaml`. */
        readonly manifestSha256: string;
        readonly files: readonly BootFile[];
      }
    | undefined;
  readonly target?: FlashTarget | undefined;
  /** Of a flash by the host: what was written, and what was there already and compared. */
  readonly ranges?: { readonly written: readonly ByteRange[]; readonly unchanged: readonly ByteRange[] } | undefined;
  /** Digest of the content, read back from the disk. */
  readonly readBackSha256?: string | undefined;
  readonly steps: readonly FlashStep[];
  readonly versions?: Readonly<Record<string, string>> | undefined;
}

/** What a flash did, for people and for archives. */
export interface FlashReceipt extends FlashReport {
  readonly format: "jumpstarter-agent/flash-receipt/v1";
  /** Its name among the receipts that the host keeps; undefined if it keeps none. */
  readonly id?: string | undefined;
  readonly exporter: string;
  /** Name of the lease in which it was done, if there was one. */
  readonly lease?: string | undefined;
  /** Digest of the exporter's configuration, without its secrets. */
  readonly configSha256?: string | undefined;
}

/** What is known of a flash before its first byte. */
export type FlashStart = Pick<FlashReport, "startedAt" | "driver" | "method" | "image">;

/** A flash that is under way. */
export interface StartedFlash {
  /** Completes a report with what the exporter knows, and keeps it. */
  end(report: FlashReport): Promise<FlashReceipt>;
}

/** Where receipts go. Nothing here rejects: a flash does not fail for its receipt. */
export interface ReceiptKeeper {
  /** Called before anything on a disk is changed: a flash that never ends has been told of, too. */
  begin(start: FlashStart): Promise<StartedFlash>;
}

/** Completes receipts and forgets them. */
export function forgetReceipts(exporter: string): ReceiptKeeper {
  return {
    begin: async () => ({
      end: async (report) => ({ format: "jumpstarter-agent/flash-receipt/v1", exporter, ...report }),
    }),
  };
}
