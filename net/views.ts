import { BlockList, isIP, isIPv6 } from "node:net";
import { AgentError } from "../agent/driver/errors.ts";
import type { Logger } from "../agent/driver/log.ts";
import type { EndedTransfer } from "../agent/driver/shown.ts";
import { macOf, parseMac } from "./neighbours.ts";
import type { Uploads } from "./uploads.ts";

/** What one exporter shows to its boards on a port that it may share with others. */
export interface View {
  /** For messages: the exporter and its driver. */
  readonly name: string;
  /** Folders that are looked in, one after the other: its own, then what all boards of the host may read. */
  readonly roots: readonly string[];
  /** The boards that see it; empty: every board that no other view names. */
  readonly boards: readonly Board[];
  /** Where its boards may leave files, by a write request of TFTP or HTTP's PUT; without it they may not. */
  readonly uploads?: Uploads | undefined;
  readonly log: Logger;
  /** Told when a transfer with one of its boards is over. Must not throw. */
  readonly ended?: ((transfer: EndedTransfer) => void) | undefined;
}

/** Who a board is: an address, a network in CIDR notation, or a MAC address. */
export type Board =
  | { readonly kind: "mac"; readonly mac: string }
  | {
      readonly kind: "network";
      readonly text: string;
      /** Length of the prefix; that of a single address is the longest. */
      readonly prefix: number;
      readonly contains: (address: string) => boolean;
    };

/** @throws AgentError E_CONFIG for what is neither an address, nor a network, nor a MAC address. */
export function parseBoard(text: string): Board {
  const mac = parseMac(text);
  if (mac !== undefined) return { kind: "mac", mac };
  const [address = "", length, ...rest] = text.split("/");
  const family = isIP(address) === 6 ? "ipv6" : "ipv4";
  const longest = family === "ipv6" ? 128 : 32;
  const prefix = length === undefined ? longest : /^\d{1,3}$/.test(length) ? Number(length) : NaN;
  if (isIP(address) === 0 || rest.length > 0 || !(prefix <= longest)) {
    throw new AgentError("E_CONFIG", `${JSON.stringify(text)} is not a board`, {
      hint: "name boards by address (10.0.0.7), network (10.0.0.0/24) or MAC address (02:00:00:00:00:07)",
    });
  }
  const network = new BlockList();
  network.addSubnet(address, prefix, family);
  const contains = (peer: string) => network.check(peer, isIPv6(peer) ? "ipv6" : "ipv4");
  return { kind: "network", text: `${address}/${prefix}`, prefix, contains };
}

/**
 * The view that a board sees. Who names it most precisely has it: by MAC address, then by the longest prefix; then
 * comes the view that names nobody.
 *
 * @param mac asked only if a view names boards by their MAC address
 */
export function viewOf<V extends Pick<View, "boards">>(
  views: Iterable<V>,
  address: string,
  mac: (address: string) => string | undefined = macOf,
): V | undefined {
  const plain = address.replace(/%.*$/, "");
  let best: { view: V; precision: number } | undefined;
  let known: { mac: string | undefined } | undefined;
  const precisionOf = (board: Board): number => {
    if (board.kind === "network") return board.contains(plain) ? board.prefix + 1 : -1;
    known ??= { mac: mac(address) };
    return known.mac === board.mac ? 1_000 : -1;
  };
  for (const view of views) {
    const precision = view.boards.length === 0 ? 0 : Math.max(...view.boards.map(precisionOf));
    if (precision >= 0 && precision > (best?.precision ?? -1)) best = { view, precision };
  }
  return best?.view;
}

/** The board that two views claim alike, in words; undefined where every board can be told from the other's. */
export function commonBoard(one: Pick<View, "boards">, other: Pick<View, "boards">): string | undefined {
  if (one.boards.length === 0 || other.boards.length === 0) {
    return one.boards.length === other.boards.length ? "every board" : undefined;
  }
  const names = (view: Pick<View, "boards">) =>
    view.boards.map((board) => (board.kind === "mac" ? board.mac : board.text));
  return names(one).find((name) => names(other).includes(name));
}
