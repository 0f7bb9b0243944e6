/** What is looked at, in the order in which it is put right: who is missing a kernel module need not look for the device yet. */
export const areas = [
  "configuration",
  "software",
  "modules",
  "permissions",
  "devices",
  "ports",
  "clock",
  "disk",
  "memory",
  "supply",
  "controller",
] as const;

export type Area = (typeof areas)[number];

/** `warning`: worth a word, but exporters can work; `problem`: something configured cannot work as it is. */
export type Level = "ok" | "warning" | "problem";

export interface DoctorFinding {
  readonly area: Area;
  readonly level: Level;
  /** Stands alone: names the exporter and the driver where it is about one. */
  readonly text: string;
  /** What the reader can do about it. */
  readonly hint?: string;
}

/** Findings of one area, without repeating its name. */
export function findingsOf(area: Area) {
  const make = (level: Level) => (text: string, hint?: string) => {
    return { area, level, text, ...(hint === undefined ? {} : { hint }) } satisfies DoctorFinding;
  };
  return { ok: make("ok"), warning: make("warning"), problem: make("problem") };
}

/** The findings by area, as they are to be put right. */
export function inOrder(findings: readonly DoctorFinding[]): DoctorFinding[] {
  return areas.flatMap((area) => findings.filter((finding) => finding.area === area));
}

/** What to do first; undefined if nothing has to be done. */
export function firstToFix(findings: readonly DoctorFinding[]): DoctorFinding | undefined {
  return inOrder(findings).find(({ level }) => level === "problem");
}
