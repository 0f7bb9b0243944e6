/** What the agents of this host say of an exporter now; the command line asks them. */
export interface ExporterNow {
  readonly exporter: string;
  /** Of the agent that has it. */
  readonly pid: number;
  /** It is registered with its controller. */
  readonly online: boolean;
  /** Name of the lease that it serves. */
  readonly lease: string | null;
  readonly offline: readonly { readonly driver: string; readonly reason: string }[];
}

/** All exporters of this host. @throws AgentError if an agent does not answer: nobody knows then */
export type AskExporters = () => Promise<readonly ExporterNow[]>;
