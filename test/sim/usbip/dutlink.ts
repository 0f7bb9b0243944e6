/** A DUTLink board (firmware 0.0.6) with the card reader that it switches: requests, shell, console mode, meter. */
import { createHash } from "node:crypto";
import { cdcAcm } from "./cdc-acm.ts";
import type { DeviceModel } from "./device.ts";
import { massStorage } from "./mass-storage.ts";

const powerActions = ["off", "on", "force-off", "force-on", "rescue"];
const storageSides = ["off", "host", "dut"];
const nothing = Buffer.alloc(0);

export interface DutlinkState {
  /** Every power request so far. */
  actions: string[];
  storage: string;
  mode: "shell" | "console";
  /** All that has reached the device under test. */
  toDevice: string;
  /** What the meter shows, instead of what it measures. */
  meter?: string;
  /** Answers nothing for so long after a power request, as while a sequence runs. */
  busyMs: number;
  /** SHA-256 of the first MiB of the card. */
  readonly cardStart: string;
}

export interface DutlinkSim {
  readonly board: DeviceModel;
  readonly reader: DeviceModel;
  readonly state: DutlinkState;
}

export function dutlink(serial: string, cardBytes = 4 * 2 ** 20): DutlinkSim {
  const card = Buffer.alloc(cardBytes);
  const storage = massStorage({ product: "DUTLink storage" });
  const state: DutlinkState = {
    actions: [],
    storage: "off",
    mode: "shell",
    toDevice: "",
    busyMs: 0,
    get cardStart() {
      return createHash("sha256")
        .update(card.subarray(0, 2 ** 20))
        .digest("hex");
    },
  };
  let onSinceMs: number | undefined;
  let shown = "";
  let busyUntilMs = 0;
  let line = "";
  let escapes = 0;

  const say = (text: string) => port.send(Buffer.from(text, "latin1"));
  /** A moving average of 2 s that begins at zero. */
  const measure = () => {
    const share = onSinceMs === undefined ? 0 : Math.min(1, (performance.now() - onSinceMs) / 2_000);
    return `${(4.05 * share).toFixed(2)}W ${(5 * share).toFixed(2)}V ${(0.81 * share).toFixed(2)}A`;
  };

  const run = (command: string) => {
    if (command === "console") {
      state.mode = "console";
      return say("Entering console mode, type CTRL+A 5 times to exit\r\n");
    }
    if (command === "about") say("Jumpstarter test-harness\r\n");
    else if (command !== "") say("unknown command\r\n");
    say("#> ");
  };
  const typed = (character: string) => {
    if (character === "\r" || character === "\n") {
      say("\r\n");
      const command = line.trim();
      line = "";
      run(command);
    } else if (character >= " ") {
      line += character;
      say(character);
    }
  };
  const port = cdcAcm({
    receive(data) {
      for (const character of data.toString("latin1")) {
        if (state.mode === "shell") {
          typed(character);
          continue;
        }
        state.toDevice += character;
        // The device under test: a terminal that greets.
        if (character === "\r") say("\r\nlogin: ");
        escapes = character === "\x02" ? escapes + 1 : 0;
        if (escapes < 5) continue;
        escapes = 0;
        state.mode = "shell";
        say("\r\nExiting console mode\r\n#> ");
      }
    },
  });

  const control: DeviceModel["control"] = async ({ requestType, request, value, index }) => {
    if (index !== controlInterface) return undefined;
    const waitMs = busyUntilMs - performance.now();
    if (waitMs > 0) await new Promise((resolve) => setTimeout(resolve, waitMs));
    if (requestType === 0x41) {
      if (request === 0x00) shown = state.meter ?? measure();
      else if (request === 0x01 && powerActions[value] !== undefined) {
        const action = powerActions[value];
        state.actions.push(action);
        onSinceMs = action.endsWith("off") ? undefined : (onSinceMs ?? performance.now());
        busyUntilMs = performance.now() + state.busyMs;
      } else if (request === 0x02 && storageSides[value] !== undefined) {
        state.storage = storageSides[value];
        if (state.storage === "host") storage.insert(card);
        else storage.eject();
      } else return undefined;
      return nothing;
    }
    if (requestType !== 0xc1 || request !== 0x04) return undefined;
    return value === 0 ? Buffer.from("0.0.6 git-ref: sim") : value === 1 ? Buffer.from(shown) : undefined;
  };

  // As the firmware allocates them: console (two), DFU, control.
  const controlInterface = 3;
  return {
    state,
    board: {
      ...{ vendorId: 0x2b23, productId: 0x1012, version: 0x0006, serial },
      manufacturer: "Red Hat Inc.",
      product: "Dutlink",
      speed: "full",
      functions: [
        port,
        { interfaces: () => [{ class: 0xfe, subclass: 1, protocol: 1, endpoints: [] }] },
        { interfaces: () => [{ class: 0xff, subclass: 1, protocol: 1, endpoints: [] }] },
      ],
      control,
    },
    reader: {
      vendorId: 0x0781,
      productId: 0x5581,
      product: "Storage",
      serial: `${serial}-storage`,
      functions: [storage],
    },
  };
}
