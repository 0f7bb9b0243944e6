/** Reports of the Yepkit YKUSH family, from Yepkit's own ykushcmd (ykush.cpp, ykush3.h) and pykush. */

export const models = {
  ykush: { name: "YKUSH", productId: 0xf2f7, ports: [1, 2, 3] },
  ykush3: { name: "YKUSH3", productId: 0xf11b, ports: [1, 2, 3] },
  ykushxs: { name: "YKUSH XS", productId: 0xf0cd, ports: [1] },
} as const;
export type Model = keyof typeof models;

export const vendorId = 0x04d8;
/** Longest answer time that the Python driver allows. */
export const answerTimeoutMs = 2_000;

export const reportBytes = 64;
const success = 0x01;

/** A port, or all of them. */
export type Port = number | "all";

const up = 0x10;
const ask = 0x20;
const allPorts = 0x0a;

export function switchReport(port: Port, on: boolean): Uint8Array {
  return report((on ? up : 0) | (port === "all" ? allPorts : port));
}

export function statusReport(port: number): Uint8Array {
  return report(ask | port);
}

function report(command: number): Uint8Array {
  const bytes = new Uint8Array(reportBytes);
  bytes[0] = command;
  return bytes;
}

/** The hub's first byte says whether it did what it was told. */
export function succeeded(reply: Uint8Array): boolean {
  return reply[0] === success;
}

/** Whether a port is on, from the reply to `statusReport`. @returns undefined if the reply is about something else */
export function portState(reply: Uint8Array, port: number): boolean | undefined {
  const state = reply[1];
  if (!succeeded(reply) || state === undefined || (state & 0x0f) !== port) return undefined;
  if (state >> 4 === 1) return true;
  return state >> 4 === 0 ? false : undefined;
}
