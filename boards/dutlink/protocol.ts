import type { Setup } from "../../agent/sys/usbfs.ts";

/** Requests of the DUTLink firmware 0.0.6 (application/src/control.rs, shell.rs, main.rs of jumpstarter-dev/dutlink-firmware). */

export const vendorId = 0x2b23;
export const productId = 0x1012;

/** Of the interface that takes the requests; its number differs between firmware versions. */
export const controlInterface = { class: 0xff, subclass: 1, protocol: 1 } as const;

const toInterface = 0x41;
const fromInterface = 0xc1;
const requests = { refresh: 0x00, power: 0x01, storage: 0x02, read: 0x04 } as const;

const powerActions = { off: 0, on: 1, "force-off": 2, "force-on": 3, rescue: 4 } as const;
export type PowerAction = keyof typeof powerActions;

const storageSides = { off: 0, host: 1, dut: 2 } as const;
export type StorageSide = keyof typeof storageSides;

const readings = { version: 0, power: 1 } as const;

/** Longest reply: the firmware has 256 bytes, the Python driver asks for 512. */
export const replyBytes = 512;

export function powerRequest(action: PowerAction, interfaceNumber: number): Setup {
  return { requestType: toInterface, request: requests.power, value: powerActions[action], index: interfaceNumber };
}

export function storageRequest(side: StorageSide, interfaceNumber: number): Setup {
  return { requestType: toInterface, request: requests.storage, value: storageSides[side], index: interfaceNumber };
}

/** Copies what the meter shows to where `readRequest` finds it. */
export function refreshRequest(interfaceNumber: number): Setup {
  return { requestType: toInterface, request: requests.refresh, value: 0, index: interfaceNumber };
}

export function readRequest(what: keyof typeof readings, interfaceNumber: number): Setup {
  return { requestType: fromInterface, request: requests.read, value: readings[what], index: interfaceNumber };
}

/** A reply is text, filled up with zeros. */
export function replyText(reply: Uint8Array): string {
  const end = reply.indexOf(0);
  return new TextDecoder().decode(end === -1 ? reply : reply.subarray(0, end)).trim();
}

/**
 * `4.05W 5.00V 0.81A`: numbers with their units, in any order, other units ignored; what is missing is 0.
 * @returns volts and amperes; undefined if a number is none
 */
export function parseMeter(text: string): { voltage: number; current: number } | undefined {
  const reading = { voltage: 0, current: 0 };
  for (const token of text.split(/\s+/)) {
    const unit = token.slice(-1).toUpperCase();
    if (unit !== "V" && unit !== "A") continue;
    const digits = token.slice(0, -1);
    // Thirty digits are a garbled reply, and no number that a double can carry.
    if (!/^[+-]?\d{1,30}(\.\d{0,30})?$/.test(digits)) return undefined;
    reading[unit === "V" ? "voltage" : "current"] = Number(digits);
  }
  return reading;
}

/** The console of the board leads to its shell, or past it to the device under test. */
export const shell = {
  /** Leaves console mode. All of these bytes reach the device as well. */
  escape: "\x02".repeat(5),
  prompt: "#> ",
  enterConsole: "console",
  entered: "Entering console mode",
} as const;

/** Follows what clients write, to know whether they have left console mode. */
export class ModeWatch {
  mode: "console" | "shell" | "unknown" = "unknown";
  #escapes = 0;
  #line = "";

  wrote(bytes: Uint8Array): void {
    for (const byte of bytes) {
      this.#escapes = byte === 2 ? this.#escapes + 1 : 0;
      if (this.#escapes === shell.escape.length) {
        this.mode = "shell";
        this.#escapes = 0;
        this.#line = "";
      } else if (this.mode === "shell") {
        this.#typed(byte);
      }
    }
  }

  #typed(byte: number): void {
    if (byte !== 13 && byte !== 10) {
      // The shell's own line is no longer than that.
      if (this.#line.length < 512) this.#line += String.fromCharCode(byte);
      return;
    }
    if (this.#line.trim() === shell.enterConsole) this.mode = "console";
    this.#line = "";
  }
}
