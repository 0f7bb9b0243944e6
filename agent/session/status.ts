import { AgentError } from "../driver/errors.ts";
import { ExporterStatus } from "../../proto/gen/jumpstarter/v1/common.ts";

/** The exporter's states by their names on the wire, without the prefix. */
export const exporterStates = {
  OFFLINE: ExporterStatus.EXPORTER_STATUS_OFFLINE,
  AVAILABLE: ExporterStatus.EXPORTER_STATUS_AVAILABLE,
  BEFORE_LEASE_HOOK: ExporterStatus.EXPORTER_STATUS_BEFORE_LEASE_HOOK,
  LEASE_READY: ExporterStatus.EXPORTER_STATUS_LEASE_READY,
  AFTER_LEASE_HOOK: ExporterStatus.EXPORTER_STATUS_AFTER_LEASE_HOOK,
  BEFORE_LEASE_HOOK_FAILED: ExporterStatus.EXPORTER_STATUS_BEFORE_LEASE_HOOK_FAILED,
  AFTER_LEASE_HOOK_FAILED: ExporterStatus.EXPORTER_STATUS_AFTER_LEASE_HOOK_FAILED,
} as const;

export type ExporterState = keyof typeof exporterStates;

/** Who calls: a client, or `j` in a lease hook through the hooks' own socket. */
export type Caller = "client" | "hook";

/** While a hook runs the drivers belong to the hook; a client waits for LEASE_READY. */
const callsAllowed: Record<Caller, ReadonlySet<ExporterState>> = {
  client: new Set(["LEASE_READY"]),
  hook: new Set(["BEFORE_LEASE_HOOK", "LEASE_READY", "AFTER_LEASE_HOOK"]),
};

/** What GetStatus tells. The version grows with every update, and clients report versions they missed. */
export class SessionStatus {
  #state: ExporterState = "AVAILABLE";
  #previous: ExporterState | undefined;
  #message = "";
  #version = 0;

  get state(): ExporterState {
    return this.#state;
  }

  get message(): string {
    return this.#message;
  }

  get version(): number {
    return this.#version;
  }

  get previous(): ExporterState | undefined {
    return this.#previous;
  }

  set(state: ExporterState, message: string): void {
    this.#previous = this.#version === 0 ? undefined : this.#state;
    this.#state = state;
    this.#message = message;
    this.#version += 1;
  }

  /** @throws AgentError E_NOT_READY if this caller may not use drivers now. */
  admit(caller: Caller): void {
    if (callsAllowed[caller].has(this.#state)) return;
    throw new AgentError("E_NOT_READY", `Exporter not ready for driver calls (status: ${this.#state})`);
  }
}
