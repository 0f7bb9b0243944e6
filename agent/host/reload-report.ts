/** What a reload has done to one exporter. */
export interface ReloadReport {
  readonly exporter: string;
  /** `refused`: the new configuration is wrong, or could not be taken over; the exporter goes on with the old one. */
  readonly outcome: "unchanged" | "reloaded" | "at-lease-end" | "refused" | "started" | "stopped";
  /** One line for each thing that is or will be different. */
  readonly changes: string[];
  /** One line `file:line:column: path: what is wrong` each. */
  readonly problems: string[];
}
