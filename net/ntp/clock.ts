import { existsSync } from "node:fs";
import { loadClockState } from "../../agent/sys/adjtimex.ts";
import type { Logger } from "../../agent/driver/log.ts";
import type { ClockQuality } from "./protocol.ts";

/** systemd-timesyncd makes it when it has set the clock in this boot. */
const timesyncMark = "/run/systemd/timesync/synchronized";

/** @returns a function that answers how the host's clock stands, from the kernel or what else is known of it */
export async function hostClock(log: Logger): Promise<() => ClockQuality> {
  try {
    const ask = await loadClockState();
    return () => {
      const { synchronised, maxErrorMicros } = ask();
      return { synchronised, maxErrorS: maxErrorMicros / 1e6 };
    };
  } catch {
    log.warn("NTP: without the package koffi only systemd-timesyncd can be asked whether the clock is right");
    return () => ({ synchronised: existsSync(timesyncMark), maxErrorS: 1 });
  }
}
