/** Which generation of the real controller the sim behaves like. */
export type Release = "0.7" | "0.8" | "0.9" | "head";

export interface Features {
  readonly reportStatus: boolean;
  /** A lease goes only to an exporter that is Available or silent; before, to any that was online and free. */
  readonly leasesNeedReady: boolean;
  readonly dialChecksStatus: boolean;
  /** A Dial waits for an exporter that is still Available, instead of refusing at once. */
  readonly dialWaits: boolean;
  /** A newer Listen ends the older one; before, all of them shared one queue. */
  readonly listenSupersedes: boolean;
  /** Older controllers take the exporter for a client and answer INVALID_ARGUMENT. */
  readonly exporterReleasesLease: boolean;
  readonly unregisterMarksOffline: boolean;
  readonly leaseContext: boolean;
  readonly serviceEndpoints: boolean;
}

export function features(release: Release): Features {
  const age = ["0.7", "0.8", "0.9", "head"].indexOf(release);
  return {
    reportStatus: age >= 1,
    leasesNeedReady: age >= 2,
    dialChecksStatus: age >= 1,
    dialWaits: age >= 2,
    listenSupersedes: age >= 2,
    exporterReleasesLease: age >= 2,
    unregisterMarksOffline: age >= 3,
    leaseContext: age >= 3,
    serviceEndpoints: age >= 3,
  };
}
