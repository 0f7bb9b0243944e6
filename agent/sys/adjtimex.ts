import { loadKoffi, systemError } from "./native.ts";

/** struct timex of linux/timex.h, of which these are at hand; `long` has the machine's word size. */
export const timexLayout = {
  64: { maxerror: 24, status: 40, bytes: 208 },
  32: { maxerror: 12, status: 20, bytes: 128 },
} as const;

const STA_UNSYNC = 0x0040;
const TIME_ERROR = 5;

/** How the kernel thinks that its clock stands. */
export interface ClockState {
  /** Something (chrony, ntpd, timesyncd, PTP) keeps the clock right. */
  readonly synchronised: boolean;
  readonly maxErrorMicros: number;
}

/** @returns a function that asks the kernel. @throws AgentError E_UNSUPPORTED where native code cannot be loaded */
export async function loadClockState(): Promise<() => ClockState> {
  const koffi = await loadKoffi();
  const wordBits = koffi.sizeof("long") === 8 ? 64 : 32;
  const layout = timexLayout[wordBits];
  const adjtimex = koffi.load(null).func("int adjtimex(void *buf)") as (timex: Buffer) => number;
  return () => {
    // All zero: modes 0 only asks.
    const timex = Buffer.alloc(layout.bytes);
    const state = adjtimex(timex);
    if (state === -1) throw systemError(koffi.errno(), "adjtimex");
    const status = timex.readInt32LE(layout.status);
    const maxErrorMicros =
      wordBits === 64 ? Number(timex.readBigInt64LE(layout.maxerror)) : timex.readInt32LE(layout.maxerror);
    return { synchronised: state !== TIME_ERROR && (status & STA_UNSYNC) === 0, maxErrorMicros };
  };
}
