import { earliestTime } from "../../controller/wait-for-time.ts";
import type { ClockState } from "../../sys/adjtimex.ts";
import { findingsOf, type DoctorFinding } from "./finding.ts";

/** Certificates and tokens are only good while the time is right. @param state undefined if the kernel cannot be asked */
export function checkClock(now: Date, state: ClockState | undefined): DoctorFinding[] {
  const { ok, warning, problem } = findingsOf("clock");
  const time = now.toISOString().replace(/\.\d+Z$/, "Z");
  const hint = "run chrony, systemd-timesyncd or ntpd, and give the machine a clock with a battery";
  if (now < earliestTime) return [problem(`the clock shows ${time}: it has not been set`, hint)];
  if (state === undefined) return [ok(`the clock shows ${time}; whether anything keeps it right is not known`)];
  if (state.synchronised) return [ok(`the clock shows ${time} and is kept right`)];
  return [warning(`the clock shows ${time}, and nothing keeps it right`, hint)];
}
