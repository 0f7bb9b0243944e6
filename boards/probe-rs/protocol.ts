/** How probe-rs is told what to do, and what it prints. */

export interface Settings {
  readonly probe?: string | null | undefined;
  readonly chip?: string | null | undefined;
  readonly protocol?: string | null | undefined;
  readonly connect_under_reset: boolean;
  readonly speed?: number | null | undefined;
}

/** Nothing of the agent's own environment but what programs need to find their files. */
export function environment(
  { probe, chip, protocol, connect_under_reset, speed }: Settings,
  { PATH, HOME }: Readonly<Record<string, string | undefined>>,
): Record<string, string> {
  const given = {
    PATH,
    HOME,
    NO_COLOR: "1",
    PROBE_RS_NON_INTERACTIVE: "true",
    PROBE_RS_PROBE: probe,
    PROBE_RS_CHIP: chip,
    PROBE_RS_PROTOCOL: protocol,
    PROBE_RS_CONNECT_UNDER_RESET: connect_under_reset ? "true" : undefined,
    PROBE_RS_SPEED: speed?.toString(),
  };
  return Object.fromEntries(Object.entries(given).filter((entry): entry is [string, string] => entry[1] != null));
}

/** Words of `probe-rs read`. @throws Error if they are something else */
export function hexWords(output: string): string[] {
  const words = output.split(/\s+/).filter((word) => word !== "");
  if (words.length === 0 || !words.every((word) => /^[0-9a-fA-F]{2,16}$/.test(word))) {
    throw new Error(`probe-rs read printed no words of memory: ${JSON.stringify(output.slice(0, 80))}`);
  }
  return words;
}

/** What was wrong, of all that it printed on stderr. */
export function problemOf(stderr: string): string {
  const lines = stderr.split("\n").map((line) => line.trim());
  const errors = lines.filter((line) => line.startsWith("Error"));
  return errors[0] ?? lines.findLast((line) => line !== "") ?? "it did not say why";
}
