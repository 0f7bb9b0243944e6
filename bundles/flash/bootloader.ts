import { setTimeout as sleep } from "node:timers/promises";
import { AgentError } from "../../agent/driver/errors.ts";
import { ConsoleLost, type ConsoleDialog, type Heard } from "./console.ts";
import { CommandLine, lastLines, literal } from "./shell.ts";
import { anySignal } from "../../agent/sys/any-signal.ts";

const commandTimeoutMs = 15_000;
const dhcpTimeoutMs = 60_000;
const dhcpTries = 3;
/** From power on to the prompt; some boards train their memory for half a minute first. */
const promptTimeoutMs = 60_000;
const escapeEveryMs = 100;
/** A transfer slower than this is given up. */
const leastBytesPerSecond = 128 * 1024;

/** How a board is reached in the network, in U-Boot and in Linux. */
export interface BoardAddress {
  readonly ip: string;
  readonly netmask: string;
  readonly gateway: string | undefined;
}

export interface TftpAddress {
  readonly tftpHost: string;
  /** Not every U-Boot can be told another than 69. */
  readonly tftpPort: number;
}

const defaultTftpPort = 69;

/**
 * TFTP as a lab needs it. A failed transfer must fail instead of starting over for ever; a lost packet must cost a
 * second, not the five of U-Boot's default. The window: after a loss two are on their way at once, and U-Boot 2023.01's
 * virtio-net hangs for good when more than its 32 receive buffers are needed; 16 was seen to do it, 8 is as fast.
 */
const networkSettings = {
  netretry: "no",
  tftptimeout: "1000",
  // Counted over the whole transfer, not in a row.
  tftptimeoutcountmax: "20",
  tftpblocksize: "1468",
  tftpwindowsize: "8",
};

/** U-Boot's command line. */
export class Bootloader {
  readonly console: ConsoleDialog;
  readonly #line: CommandLine;
  readonly #prompt: RegExp;

  /** @param prompt as the driver gives it; a leading newline ties it to the start of a line */
  constructor(console: ConsoleDialog, prompt: string) {
    this.console = console;
    this.#prompt = new RegExp(literal(prompt));
    this.#line = new CommandLine(console, this.#prompt);
  }

  /** Stops the automatic boot of a board that was just switched on. */
  async interrupt(signal: AbortSignal): Promise<void> {
    const found = this.console.expect(this.#prompt, { what: "U-Boot prompt", timeoutMs: promptTimeoutMs });
    const stop = new AbortController();
    void this.#pressEscape(anySignal([signal, stop.signal]));
    try {
      await found;
    } finally {
      stop.abort();
    }
    // The console may swallow what follows an ESC; this is nothing to miss.
    this.console.send("#\n");
    await this.console.expect(this.#prompt, { what: "U-Boot prompt", timeoutMs: commandTimeoutMs });
  }

  /** Its own words, e.g. `U-Boot 2023.01 (Jun 22 2026 - 08:38:07 +0000)`. */
  async version(): Promise<string> {
    const { output } = await this.#line.run("version", commandTimeoutMs);
    return /^U-Boot .*/m.exec(output)?.[0] ?? "unknown";
  }

  /** Sets the network up, by DHCP or with a fixed address, and the server that TFTP talks to. */
  async network({ tftpHost, tftpPort }: TftpAddress, fixed: BoardAddress | undefined): Promise<BoardAddress> {
    for (const [name, value] of Object.entries(networkSettings)) await this.#set(name, value);
    if (fixed === undefined) await this.#dhcp();
    else {
      await this.#set("ipaddr", fixed.ip);
      await this.#set("netmask", fixed.netmask);
      if (fixed.gateway !== undefined) await this.#set("gatewayip", fixed.gateway);
    }
    await this.#set("serverip", tftpHost);
    if (tftpPort !== defaultTftpPort) await this.#set("tftpdstp", `${tftpPort}`);
    const ip = await this.#get("ipaddr");
    if (ip === undefined) throw new AgentError("E_FAILED", "U-Boot has no IP address after dhcp");
    return { ip, netmask: (await this.#get("netmask")) ?? "255.255.255.0", gateway: await this.#get("gatewayip") };
  }

  /**
   * Loads a file by TFTP and compares the number of bytes that arrived.
   * @throws AgentError E_FAILED with what U-Boot said, at once
   */
  async load(name: string, address: string, bytes: number): Promise<void> {
    const timeoutMs = 30_000 + (bytes / leastBytesPerSecond) * 1_000;
    const { status, output } = await this.#line.run(`tftpboot ${address} ${name}`, timeoutMs);
    const [, arrived] = /Bytes transferred = (\d+)/.exec(output) ?? [];
    if (status !== 0 || arrived === undefined) {
      const reason = /TFTP error: .*|Retry count exceeded.*|.*No such file.*/i.exec(output)?.[0] ?? lastLines(output);
      throw new AgentError("E_FAILED", `the board could not load ${name}: ${reason}`);
    }
    if (Number(arrived) !== bytes) {
      throw new AgentError("E_FAILED", `the board got ${arrived} bytes of ${name} instead of ${bytes}`);
    }
  }

  /** Starts what was loaded and waits until it says `expected`. @throws AgentError at once when it cannot start */
  async boot(command: string, expected: string, timeoutMs: number): Promise<void> {
    const outcomes = new RegExp(
      `${literal(expected)}|(?<panic>Kernel panic - not syncing.*)|(?<back>${this.#prompt.source})`,
    );
    const start = async () => {
      this.console.send(`${command}\n`);
      return await this.#outcome(outcomes, { what: `"${expected}"`, timeoutMs });
    };
    const first = await start();
    // A console that went may have taken the command along.
    const again = first.wasLost && first.heard.match.groups?.["back"] !== undefined;
    const { heard } = again ? await start() : first;
    const { panic, back } = heard.match.groups ?? {};
    if (panic !== undefined) throw new AgentError("E_FAILED", `the flasher system died: ${panic}`);
    if (back !== undefined) throw new AgentError("E_FAILED", `U-Boot could not boot it: ${lastLines(heard.before)}`);
  }

  /** Waits, also when the console goes and comes back: an empty line makes whatever waits for input show its prompt. */
  async #outcome(
    outcomes: RegExp,
    wanted: { what: string; timeoutMs: number },
  ): Promise<{ heard: Heard; wasLost: boolean }> {
    for (let wasLost = false; ; wasLost = true) {
      try {
        return { heard: await this.console.expect(outcomes, wanted), wasLost };
      } catch (error) {
        if (!(error instanceof ConsoleLost)) throw error;
        await this.console.reattach();
        this.console.send("\n");
      }
    }
  }

  async #pressEscape(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      this.console.send("\x1b");
      await sleep(escapeEveryMs, undefined, { signal }).catch(() => {});
    }
  }

  async #dhcp(): Promise<void> {
    await this.#set("autoload", "no");
    let output = "";
    for (let tries = 0; tries < dhcpTries; tries += 1) {
      const answer = await this.#line.run("dhcp", dhcpTimeoutMs);
      if (answer.status === 0) return;
      output = answer.output;
    }
    throw new AgentError("E_FAILED", `no DHCP lease after ${dhcpTries} tries: ${lastLines(output)}`);
  }

  async #set(name: string, value: string): Promise<void> {
    await this.#line.check(`setenv ${name} '${value}'`, commandTimeoutMs);
  }

  async #get(name: string): Promise<string | undefined> {
    const { output } = await this.#line.run(`printenv ${name}`, commandTimeoutMs);
    return new RegExp(`^${name}=(.+)$`, "m").exec(output)?.[1];
  }
}
