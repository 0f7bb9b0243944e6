/** A Yepkit YKUSH hub's HID interface, as Yepkit's ykushcmd speaks to it. */
import type { DeviceModel } from "./device.ts";
import { hid } from "./hid.ts";

export interface YkushState {
  /** Ports 1 to 3. */
  ports: boolean[];
  /** Every command byte so far. */
  commands: number[];
  /** Ports that do not switch. */
  stuck: number[];
  /** Answers every command with a failure. */
  refuses: boolean;
}

export function ykush(serial: string | undefined, productId = 0xf2f7): { model: DeviceModel; state: YkushState } {
  const state: YkushState = { ports: [true, true, true], commands: [], stuck: [], refuses: false };
  const answer = (...bytes: number[]) => {
    const report = Buffer.alloc(64);
    report.set(bytes);
    device.send(report);
  };
  const device = hid({
    receive(report) {
      const command = report.readUInt8(0);
      state.commands.push(command);
      const [what, which] = [command >> 4, command & 0x0f];
      const ports = which === 0x0a ? [1, 2, 3] : [which];
      if (state.refuses || ports.some((port) => port < 1 || port > 3)) return answer(0xff);
      if (what === 2) return answer(1, (state.ports[which - 1] === true ? 0x10 : 0) | which);
      if (what > 1) return answer(0xff);
      for (const port of ports) if (!state.stuck.includes(port)) state.ports[port - 1] = what === 1;
      answer(1, command);
    },
  });
  return {
    state,
    model: {
      ...{ vendorId: 0x04d8, productId, manufacturer: "Yepkit Lda.", product: "YKUSH" },
      ...(serial === undefined ? {} : { serial }),
      functions: [device],
    },
  };
}
