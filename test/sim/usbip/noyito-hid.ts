/** A NOYITO HID relay board, with the ids that boards really have. */
import type { DeviceModel } from "./device.ts";
import { hid } from "./hid.ts";

export interface NoyitoHidState {
  relays: boolean[];
  /** Every command, in hex. */
  commands: string[];
}

export function noyitoHid(channels: 4 | 8): { model: DeviceModel; state: NoyitoHidState } {
  const state: NoyitoHidState = { relays: Array.from({ length: channels }, () => false), commands: [] };
  const reportBytes = 64;
  const device = hid({
    reportBytes,
    receive(report) {
      const command = report.subarray(0, 4);
      state.commands.push(command.toString("hex"));
      const [head, channel = 0, value = 0, sum] = command;
      if (head !== 0xa0 || sum !== ((0xa0 + channel + value) & 0xff)) return;
      if (channel === 0x0f && value === 2) {
        const lines = state.relays.map((on, index) => `CH${index + 1}:${on ? "ON " : "OFF"}\r\n`).join("");
        // Eight channels take two reports, the last one filled up with zeros.
        for (let at = 0; at < lines.length; at += reportBytes) {
          const part = Buffer.alloc(reportBytes);
          part.write(lines.slice(at, at + reportBytes), "latin1");
          device.send(part);
        }
      } else if (channel >= 1 && channel <= channels) {
        state.relays[channel - 1] = value === 1;
      }
    },
  });
  return {
    state,
    model: { vendorId: 0x5131, productId: 0x2007, product: "USBRelay", functions: [device] },
  };
}
