/** Bytes of NOYITO USB relay boards, as the Python driver (jumpstarter_driver_noyito_relay) sends them. */

/** The serial boards have one or two channels. */
export const serialChannels = [1, 2];
export const baudRate = 9600;

export function relayCommand(channel: number, on: boolean): Uint8Array {
  return withSum(channel, on ? 1 : 0);
}

/** Asks a serial board. */
export const serialStatusQuery = Uint8Array.of(0xff);
/** Asks a HID board: channel 15 stands for all. */
export const hidStatusQuery = withSum(0x0f, 0x02);

function withSum(channel: number, state: number): Uint8Array {
  return Uint8Array.of(0xa0, channel, state, (0xa0 + channel + state) & 0xff);
}

export type Channels = ReadonlyMap<number, "on" | "off">;

/** A board answers with a line for each channel: `CH1:ON \r\n`. More than eight lines are no answer. */
export const longestAnswerBytes = 256;

/** @param final also reads a last line whose end has not come */
export function readStatus(answer: string, final = false): Channels {
  // HID boards fill their reports with zeros.
  const lines = answer.replaceAll("\0", "").split("\n");
  if (!final) lines.pop();
  const channels = new Map<number, "on" | "off">();
  for (const line of lines) {
    const [, channel, state] = /^\s*CH(\d):\s*(ON|OFF)\s*$/i.exec(line) ?? [];
    if (channel !== undefined && state !== undefined) {
      channels.set(Number(channel), state.toLowerCase() === "on" ? "on" : "off");
    }
  }
  return channels;
}

/** What clients are told of several channels together. */
export function summary(states: readonly ("on" | "off")[]): "on" | "off" | "partial" {
  const [first = "off"] = states;
  return states.every((state) => state === first) ? first : "partial";
}
