import type { AgentError } from "../../agent/driver/errors.ts";
import type { ContentEncoding } from "../../agent/driver/resource.ts";
import type { Step } from "./timeline.ts";

/** A boot file as it was offered to the board. */
export interface BootFile {
  readonly name: string;
  readonly address: string;
  readonly bytes: number;
  readonly sha256: string;
}

/** What a flash did, for people and for archives. Missing parts were not reached. */
export interface Receipt {
  readonly format: "jumpstarter-agent/flash-receipt/v1";
  readonly verdict: "verified" | "failed";
  /** The step that failed first, and why. */
  readonly failure?: { readonly step: string; readonly code: AgentError["code"]; readonly message: string };
  readonly startedAt: string;
  readonly durationMs: number;
  readonly exporter: string;
  readonly method: "shell" | "fls";
  readonly image: {
    readonly path: string;
    readonly bytes: number;
    readonly encoding: ContentEncoding | null;
    readonly sha256?: string;
    /** What belongs on the disk. */
    readonly content?: { readonly bytes: number; readonly sha256: string };
  };
  readonly bundle?: {
    readonly name: string;
    /** Digest of the manifest's text. */
    readonly manifestSha256: string;
    readonly files: readonly BootFile[];
  };
  /** Block device on the board. */
  readonly target?: string;
  /** Digest of the same number of bytes, read back by the board from its disk. */
  readonly readBackSha256?: string;
  readonly steps: readonly Step[];
  readonly versions: Readonly<Record<string, string>>;
}

/** The steps as a table: when each began, how long it took. */
export function timelineText(steps: readonly Step[]): string {
  const seconds = (ms: number) => (ms / 1000).toFixed(2).padStart(8);
  const lines = [...steps]
    .sort((one, other) => one.startMs - other.startMs)
    .map(({ name, startMs, durationMs, verdict }) => {
      return `${seconds(startMs)} s ${seconds(durationMs)} s  ${name}${verdict === "ok" ? "" : "  FAILED"}`;
    });
  return ["     start       took  step", ...lines, ""].join("\n");
}
