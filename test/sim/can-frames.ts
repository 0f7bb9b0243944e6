import type { CanFrame } from "../../boards/can/bus.ts";

/** A standard frame without data, but for what is given. */
export function frameOf(
  given: Partial<Omit<CanFrame, "data">> & { readonly data?: readonly number[] | Uint8Array },
): CanFrame {
  const data = Uint8Array.from(given.data ?? []);
  return {
    id: 0,
    extended: false,
    remote: false,
    error: false,
    fd: false,
    bitrateSwitch: false,
    errorStateIndicator: false,
    dlc: data.length,
    timestampS: 0,
    channel: null,
    ...given,
    data,
  };
}
