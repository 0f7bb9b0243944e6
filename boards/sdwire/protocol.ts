/** SDWire and SDWireC: an FT200X whose pin CBUS0 switches the card. Requests: libftdi (bitbang_cbus), sdwire-cli, sd-mux-ctrl. */

/** Sides of the card; there is no third one. */
export type CardSide = "host" | "dut";

/** Vendor request to or from the device. */
export interface VendorRequest {
  readonly requestType: number;
  readonly request: number;
  readonly value: number;
  readonly index: number;
}

const SIO_SET_BITMODE = 0x0b;
const SIO_READ_PINS = 0x0c;
/** Mode in the high byte; in the low byte four directions (1 is out) above four levels. */
const BITMODE_CBUS = 0x20;
const allOut = 0xf0;
const CBUS0 = 0x01;

/** Sets CBUS0: high is the host. Without an effect on a chip whose EEPROM does not make CBUS0 a GPIO. */
export function selectRequest(side: CardSide): VendorRequest {
  const pins = allOut | (side === "host" ? CBUS0 : 0);
  return { requestType: 0x40, request: SIO_SET_BITMODE, value: (BITMODE_CBUS << 8) | pins, index: 0 };
}

/** Asks for one byte: how the pins stand. */
export const pinsRequest: VendorRequest = { requestType: 0xc0, request: SIO_READ_PINS, value: 0, index: 0 };

/** @returns undefined for what is no answer */
export function sideOf(reply: Uint8Array): CardSide | undefined {
  const [pins] = reply;
  if (pins === undefined || reply.length !== 1) return undefined;
  return (pins & CBUS0) === 0 ? "dut" : "host";
}
