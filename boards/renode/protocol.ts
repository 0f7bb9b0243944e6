/** Renode's monitor: lines of text over Telnet, and a prompt that says which machine is chosen. */

export const loadCommands = ["sysbus LoadBinary", "sysbus LoadELF", "sysbus LoadSymbolsFrom"] as const;
export type LoadCommand = (typeof loadCommands)[number];

/** @param head first bytes of a firmware */
export function loadCommandFor(head: Uint8Array): LoadCommand {
  const isElf = head[0] === 0x7f && head[1] === 0x45 && head[2] === 0x4c && head[3] === 0x46;
  return isElf ? "sysbus LoadELF" : "sysbus LoadBinary";
}

const iac = 0xff;
const [subnegotiationEnd, subnegotiation, will, dont] = [0xf0, 0xfa, 0xfb, 0xfe] as const;

/** Takes Telnet's own words (RFC 854) out of a stream, wherever it is cut. */
export class TelnetFilter {
  #state: "data" | "command" | "option" | "within" | "within-command" = "data";

  filter(bytes: Uint8Array): Uint8Array {
    const plain: number[] = [];
    for (const byte of bytes) {
      switch (this.#state) {
        case "data":
          if (byte === iac) this.#state = "command";
          else plain.push(byte);
          break;
        case "command":
          this.#state = "data";
          if (byte === iac) plain.push(byte);
          else if (byte === subnegotiation) this.#state = "within";
          else if (byte >= will && byte <= dont) this.#state = "option";
          break;
        case "option":
          this.#state = "data";
          break;
        case "within":
          if (byte === iac) this.#state = "within-command";
          break;
        case "within-command":
          this.#state = byte === subnegotiationEnd ? "data" : "within";
      }
    }
    return Uint8Array.from(plain);
  }
}

/** Colours and cursor movements of terminals (ECMA-48). */
// eslint-disable-next-line no-control-regex -- that is what they begin with
const controlSequences = /\u001b\[[0-9;?]*[ -/]*[@-~]/g;

/**
 * What was said up to a prompt.
 * @param said as text of one byte per character
 * @param names in the prompt: `monitor`, or the machine's
 * @returns undefined while it is not there
 */
export function upToPrompt(said: string, names: readonly string[]): string | undefined {
  const text = said.replace(controlSequences, "");
  const start = text.lastIndexOf("\n") + 1;
  const last = text.slice(start).trim();
  if (!names.some((name) => last === `(${name})`)) return undefined;
  return text.slice(0, start);
}

/** The answer alone: terminals repeat what is typed. */
export function withoutEcho(answer: string, command: string): string {
  const lines = answer.replace(/\r/g, "").split("\n");
  while (lines.length > 1 && lines[0]?.trim() === "") lines.shift();
  if (lines[0]?.trim() === command.trim()) lines.shift();
  return lines.join("\n");
}

const markers = [
  ...["Could not find", "Error", "Invalid", "Failed", "Unknown"],
  ...["There was an error", "Parameters did not match"],
];

/** True if a line of the answer says that the command failed: Renode has no other way to tell. */
export function saysError(answer: string): boolean {
  return answer.split("\n").some((line) => markers.some((marker) => line.trim().startsWith(marker)));
}

/** The commands that make a machine, in their order. */
export function machineCommands(machine: {
  readonly name: string;
  readonly platform: string;
  readonly uart: string;
  readonly pty: string;
  readonly extra: readonly string[];
}): string[] {
  return [
    `mach create "${machine.name}"`,
    `machine LoadPlatformDescription @${machine.platform}`,
    `emulation CreateUartPtyTerminal "term" "${machine.pty}"`,
    `connector Connect ${machine.uart} term`,
    ...machine.extra,
  ];
}
