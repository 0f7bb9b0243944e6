/** QEMU's machine protocol (QMP, docs/interop/qmp-spec): one JSON object in each line. Numbers of calls are our own. */

export type QmpMessage =
  | { readonly kind: "greeting" }
  | { readonly kind: "return"; readonly id: number; readonly value: unknown }
  | { readonly kind: "error"; readonly id: number; readonly text: string }
  | { readonly kind: "event"; readonly name: string; readonly data: Readonly<Record<string, unknown>> };

/** One command as a line. */
export function qmpCommand(id: number, name: string, args?: Readonly<Record<string, unknown>>): string {
  return JSON.stringify({ execute: name, ...(args === undefined ? {} : { arguments: args }), id }) + "\n";
}

/** @returns undefined for what is no message, or none that means anything here */
export function parseQmp(line: string): QmpMessage | undefined {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    return undefined;
  }
  if (!isObject(value)) return undefined;
  if ("QMP" in value) return { kind: "greeting" };
  const { event, data, id, error } = value;
  if (typeof event === "string") return { kind: "event", name: event, data: isObject(data) ? data : {} };
  if (typeof id !== "number") return undefined;
  if (isObject(error)) {
    const { desc, class: kind } = error;
    return { kind: "error", id, text: [desc, kind].find((word) => typeof word === "string") ?? "no reason given" };
  }
  return "return" in value ? { kind: "return", id, value: value["return"] } : undefined;
}

/** Terminal of the first serial port, in the answer of `query-chardev`. */
export function serialTerminal(answer: unknown): string | undefined {
  const devices: unknown[] = Array.isArray(answer) ? answer : [];
  for (const device of devices) {
    if (!isObject(device) || device["label"] !== "serial0") continue;
    const [, path] = /^pty:(\/.+)$/.exec(String(device["filename"])) ?? [];
    return path;
  }
  return undefined;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
