/** Addressing of ISO 15765-2:2016, chapter 10.3: which CAN ids and address bytes belong to a connection. */

/** In the order of the numbers that clients send. */
export const addressingModes = [
  "Normal_11bits",
  "Normal_29bits",
  "NormalFixed_29bits",
  "Extended_11bits",
  "Extended_29bits",
  "Mixed_11bits",
  "Mixed_29bits",
] as const;

export type AddressingMode = (typeof addressingModes)[number];

/** Physical: to one node. Functional: to whoever is concerned; single frames only. */
export type TargetType = "physical" | "functional";

/** As clients and configurations name it. */
export interface AddressFields {
  readonly addressing_mode: AddressingMode;
  readonly txid: number | undefined;
  readonly rxid: number | undefined;
  /** N_TA, of the peer. */
  readonly target_address: number | undefined;
  /** N_SA, our own. */
  readonly source_address: number | undefined;
  /** Bits 28 to 16 of 29-bit ids that are made of addresses. */
  readonly physical_id: number | undefined;
  readonly functional_id: number | undefined;
  /** N_AE. */
  readonly address_extension: number | undefined;
  readonly rx_only: boolean;
  readonly tx_only: boolean;
}

/** What frames of one direction look like. */
export interface Route {
  /** Ids have 29 bits. */
  readonly extended: boolean;
  readonly id: Readonly<Record<TargetType, number>>;
  /** The byte before the PCI, if there is one. */
  readonly prefix: Uint8Array;
}

export interface Address {
  readonly tx: Route;
  readonly rx: Route;
}

const wideModes = new Set<AddressingMode>(["Normal_29bits", "NormalFixed_29bits", "Extended_29bits", "Mixed_29bits"]);

/** Bits 28 to 16 of the ids, 10.3.3 and 10.3.5: priority 6, and what J1939 calls PF 218 and 219, 206 and 205. */
const fixedIds = {
  NormalFixed_29bits: { physical: 0x18da_0000, functional: 0x18db_0000 },
  Mixed_29bits: { physical: 0x18ce_0000, functional: 0x18cd_0000 },
} as const;
const fixedMask = 0x1fff_0000;

const isNormal = (mode: AddressingMode) => mode === "Normal_11bits" || mode === "Normal_29bits";
const isExtended = (mode: AddressingMode) => mode === "Extended_11bits" || mode === "Extended_29bits";

/** What is wrong with an address, in the words of can-isotp; undefined if nothing is. */
export function addressProblem(address: AddressFields): string | undefined {
  const { addressing_mode: mode, txid, rxid, target_address, source_address, address_extension } = address;
  if (address.rx_only && address.tx_only) return "Address cannot be tx only and rx only";
  const sends = !address.rx_only;
  const receives = !address.tx_only;
  const isMissing = (one: number | undefined) => one === undefined;

  if (isNormal(mode) || mode === "Mixed_11bits") {
    const name = isNormal(mode) ? "Normal addressing mode (11 or 29 bits ID)" : "Mixed addressing mode (11 bits ID)";
    if (mode === "Mixed_11bits" && isMissing(address_extension))
      return `address_extension must be specified for ${name}`;
    if (receives && isMissing(rxid)) return `rxid must be specified for ${name}`;
    if (sends && isMissing(txid)) return `txid must be specified for ${name}`;
    if (txid === rxid) return `txid and rxid must be different for ${isNormal(mode) ? "Normal addressing mode" : name}`;
  } else if (isExtended(mode)) {
    const name = "Extended addressing mode (11 or 29 bits ID)";
    if (sends && (isMissing(target_address) || isMissing(txid))) {
      return `target_address and txid must be specified for ${name}`;
    }
    if (receives && (isMissing(source_address) || isMissing(rxid))) {
      return `source_address and rxid must be specified for ${name}`;
    }
    if (txid === rxid) return "txid and rxid must be different";
  } else if (mode === "NormalFixed_29bits") {
    if (isMissing(target_address) || isMissing(source_address)) {
      return "target_address and source_address must be specified for Normal Fixed addressing (29 bits ID)";
    }
  } else if (isMissing(target_address) || isMissing(source_address) || isMissing(address_extension)) {
    return "target_address, source_address and address_extension must be specified for Mixed addressing mode (29 bits ID)";
  }

  for (const name of ["target_address", "source_address", "address_extension"] as const) {
    if (!isWithin(address[name], 0xff)) return `${name} must be an integer between 0x00 and 0xFF`;
  }
  const isWide = wideModes.has(mode);
  for (const name of ["txid", "rxid"] as const) {
    const id = address[name];
    if (id !== undefined && id < 0) return `${name} must be greater than 0`;
    if (!isWide && !isWithin(id, 0x7ff)) return `${name} must be smaller than 0x7FF for 11 bits identifier`;
    if (!isWithin(id, 0x1fff_ffff)) return `${name} must be smaller than 0x1FFFFFFF for 29 bits identifier`;
  }
  for (const name of ["physical_id", "functional_id"] as const) {
    if (!isWithin(address[name], 0x1fff_ffff)) return `${name} must be smaller than 0x1FFFFFFF`;
  }
  return undefined;
}

function isWithin(value: number | undefined, most: number): boolean {
  return value === undefined || (Number.isInteger(value) && value >= 0 && value <= most);
}

/** @param tx for what we send, @param rx for what we receive; both without {@link addressProblem} */
export function resolveAddress(tx: AddressFields, rx: AddressFields = tx): Address {
  return { tx: txRoute(tx), rx: rxRoute(rx) };
}

function txRoute(address: AddressFields): Route {
  const { addressing_mode: mode, txid = 0, target_address: target = 0, source_address: source = 0 } = address;
  const prefix = isExtended(mode) ? [target] : mode.startsWith("Mixed") ? [address.address_extension ?? 0] : [];
  return route(address, txid, (target << 8) | source, prefix);
}

function rxRoute(address: AddressFields): Route {
  const { addressing_mode: mode, rxid = 0, target_address: target = 0, source_address: source = 0 } = address;
  const prefix = isExtended(mode) ? [source] : mode.startsWith("Mixed") ? [address.address_extension ?? 0] : [];
  return route(address, rxid, (source << 8) | target, prefix);
}

function route(address: AddressFields, id: number, addresses: number, prefix: readonly number[]): Route {
  const mode = address.addressing_mode;
  const common = { extended: wideModes.has(mode), prefix: Uint8Array.from(prefix) };
  if (mode !== "NormalFixed_29bits" && mode !== "Mixed_29bits") {
    return { ...common, id: { physical: id, functional: id } };
  }
  const physical = (address.physical_id ?? fixedIds[mode].physical) & fixedMask;
  const functional = (address.functional_id ?? fixedIds[mode].functional) & fixedMask;
  return { ...common, id: { physical: physical | addresses, functional: functional | addresses } };
}

/** Which kind of target a received frame is meant for; undefined if it is none of this connection. */
export function targetOf(
  route: Route,
  frame: { readonly id: number; readonly extended: boolean; readonly data: Uint8Array },
): TargetType | undefined {
  if (frame.extended !== route.extended) return undefined;
  const [prefix] = route.prefix;
  if (prefix !== undefined && frame.data[0] !== prefix) return undefined;
  if (frame.id === route.id.physical) return "physical";
  return frame.id === route.id.functional ? "functional" : undefined;
}
