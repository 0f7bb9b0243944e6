import * as lax from "../../agent/driver/lax.ts";

/** What Tasmota says where: its topics by `%prefix%/%topic%/` and their payloads, as its documentation ("MQTT") has them. */

const prefixes = /(^|\/)(cmnd|stat|tele)(?=\/)/;

/**
 * The plug's topic of another kind, as `tele/plug/LWT` for `cmnd/plug/POWER`.
 * @returns undefined if the given one has no prefix of Tasmota's
 */
export function siblingTopic(topic: string, prefix: "cmnd" | "stat" | "tele", last: string): string | undefined {
  if (!prefixes.test(topic)) return undefined;
  return topic.replace(prefixes, `$1${prefix}`).replace(/[^/]*$/, last);
}

/** How people call it: what its topics have between prefix and command. */
export function plugName(commandTopic: string): string {
  return (
    commandTopic
      .replace(prefixes, "$1")
      .replace(/\/[^/]*$/, "")
      .replace(/^\/|\/$/g, "") || commandTopic
  );
}

/**
 * The state that a message tells: `ON`, or `{"POWER":"ON"}` as in `stat/…/RESULT`.
 * @param relay last part of the command's topic: POWER, POWER1, …
 * @returns undefined if it tells none, or another relay's
 */
export function stateOf(payload: string, relay: string): boolean | undefined {
  const word = /^\s*(on|off)\s*$/i.exec(payload)?.[1] ?? stateInJson(payload, relay);
  return word === undefined ? undefined : word.toUpperCase() === "ON";
}

function stateInJson(payload: string, relay: string): string | undefined {
  const found = parse(payload);
  const name = relay.toUpperCase();
  // A plug with one relay takes POWER1 for POWER, and answers POWER.
  const names = name === "POWER" || name === "POWER1" ? ["POWER", "POWER1"] : [name];
  const value = names.map((key) => found?.[key]).find((given) => given !== undefined);
  return typeof value === "string" && /^(on|off)$/i.test(value) ? value : undefined;
}

/** Volts and amperes of `stat/…/STATUS8` or `tele/…/SENSOR`; of several phases, the first. @returns undefined without them */
export function readingOf(payload: string): { voltage: number; current: number } | undefined {
  const found = parse(payload);
  const sensors = parseObject(found?.["StatusSNS"]) ?? found;
  const energy = parseObject(sensors?.["ENERGY"]);
  const [voltage, current] = [firstNumber(energy?.["Voltage"]), firstNumber(energy?.["Current"])];
  return voltage === undefined || current === undefined ? undefined : { voltage, current };
}

function firstNumber(value: unknown): number | undefined {
  return lax.number().safeParse(Array.isArray(value) ? value[0] : value).data;
}

function parse(payload: string): Record<string, unknown> | undefined {
  try {
    return parseObject(JSON.parse(payload));
  } catch {
    return undefined;
  }
}

function parseObject(value: unknown): Record<string, unknown> | undefined {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : undefined;
}
