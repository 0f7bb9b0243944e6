import { AgentError } from "../../agent/driver/errors.ts";
import type { FlashTarget } from "../../agent/driver/receipt.ts";
import type { ContentEncoding } from "../../agent/driver/resource.ts";
import type { BoardAddress } from "./bootloader.ts";
import { ConsoleLost, type ConsoleDialog } from "./console.ts";
import { CommandLine, lastLines, literal } from "./shell.ts";

const commandTimeoutMs = 60_000;
const loginTimeoutMs = 180_000;
/** Data in the board's memory can take as long to reach a slow card as the whole image. */
const syncTimeoutMs = 1_200_000;
/** A job that neither says nor moves anything for so long is given up. */
const stallTimeoutMs = 60_000;
const pollEveryMs = 1_000;

const decompressors: Readonly<Record<ContentEncoding, string>> = {
  gzip: "zcat",
  xz: "xzcat",
  bz2: "bzcat",
  zstd: "zstdcat",
};

/** Login of a bundle's manifest. */
export interface Login {
  readonly login_prompt: string;
  readonly username: string | null;
  readonly password: string | null;
  readonly prompt: string;
}

export interface WriteOptions {
  readonly url: string;
  readonly encoding: ContentEncoding | null;
  readonly target: string;
  /** What will be on the target. */
  readonly bytes: number;
  readonly onProgress: (bytes: number) => void;
}

/** The small Linux that a bundle boots on the board, on its console. */
export class DutSystem {
  readonly #console: ConsoleDialog;
  readonly #line: CommandLine;

  constructor(console: ConsoleDialog, prompt: string) {
    this.#console = console;
    this.#line = new CommandLine(console, new RegExp(literal(prompt)));
  }

  /** Logs in at a prompt that has just been shown. */
  async login(login: Login): Promise<void> {
    await this.#enter(login).catch(async (error: unknown) => {
      if (!(error instanceof ConsoleLost)) throw error;
      await this.#enterAnew(login);
    });
    // On a wide terminal the shell does not break the echo of long commands into lines.
    await this.#line.run("stty columns 1000", commandTimeoutMs);
  }

  async #enter({ username, password, prompt }: Login): Promise<void> {
    if (username !== null) this.#console.send(`${username}\n`);
    if (password !== null) {
      await this.#console.expect(/ssword:/, { what: "password prompt", timeoutMs: commandTimeoutMs });
      this.#console.send(`${password}\n`);
    }
    await this.#console.expect(new RegExp(literal(prompt)), { what: "shell prompt", timeoutMs: loginTimeoutMs });
  }

  /** After the console was away: an empty line brings back the login prompt, or the shell's if we were in already. */
  async #enterAnew(login: Login): Promise<void> {
    const prompts = new RegExp(`(?<login>${literal(login.login_prompt)})|${literal(login.prompt)}`);
    for (;;) {
      try {
        await this.#console.reattach();
        this.#console.send("\n");
        const { match } = await this.#console.expect(prompts, { what: "prompt", timeoutMs: loginTimeoutMs });
        if (match.groups?.["login"] !== undefined) await this.#enter(login);
        return;
      } catch (error) {
        if (!(error instanceof ConsoleLost)) throw error;
      }
    }
  }

  /** The kernel's release. */
  async version(): Promise<string> {
    return (await this.#line.run("uname -r", commandTimeoutMs)).output;
  }

  /** Prepares what the bundle wants done before a disk is written; as with the Python client it may fail. */
  async prepare(commands: readonly string[], { ip, gateway }: BoardAddress): Promise<void> {
    await this.#line.run(`export dhcp_addr=${ip} gw_addr=${gateway ?? ""}`, commandTimeoutMs);
    for (const command of commands) await this.#line.run(command, commandTimeoutMs);
  }

  /** Sets the network up, by DHCP or with a fixed address, and the clock. */
  async network(fixed: BoardAddress | undefined): Promise<void> {
    if (fixed === undefined) await this.#line.check("udhcpc -n -q -t 10 -T 1", commandTimeoutMs);
    else {
      const device = "$(ls /sys/class/net | grep -v '^lo$' | head -n 1)";
      await this.#line.check(`ifconfig ${device} ${fixed.ip} netmask ${fixed.netmask} up`, commandTimeoutMs);
      if (fixed.gateway !== undefined) {
        await this.#line.check(`route add default gw ${fixed.gateway} ${device}`, commandTimeoutMs);
      }
    }
    await this.#line.run(`date -s @${Math.floor(Date.now() / 1000)}`, commandTimeoutMs);
  }

  /**
   * The block device behind a target of the manifest: `/dev/…`, or `/sys/class/block#TEXT`, the one whose sysfs
   * link holds TEXT; or `/dev/disk/by-partlabel/LABEL`.
   */
  async resolveTarget(target: string): Promise<string> {
    const [, text] = /^\/sys\/class\/block#(.+)$/.exec(target) ?? [];
    const [, label] = /^\/dev\/disk\/by-partlabel\/([\w.-]+)$/.exec(target) ?? [];
    let device = target;
    if (label !== undefined) {
      // The links are udev's, which small systems have not; the kernel knows the label itself.
      const list = await this.#line.run(`grep -lx PARTNAME=${label} /sys/class/block/*/uevent`, commandTimeoutMs);
      const [, name] = /^\/sys\/class\/block\/(\S+)\/uevent$/m.exec(list.output) ?? [];
      if (name === undefined) throw new AgentError("E_FAILED", `the board has no partition with the label ${label}`);
      device = `/dev/${name}`;
    }
    if (text !== undefined) {
      const list = await this.#line.check(`ls -l /sys/class/block/`, commandTimeoutMs);
      const link = list.split("\n").find((line) => line.includes(text));
      const [, name] = /(\S+) -> /.exec(link ?? "") ?? [];
      if (name === undefined)
        throw new AgentError("E_FAILED", `the board has no block device with ${text} in its path`);
      device = `/dev/${name}`;
    }
    if (!/^\/dev\/[\w./:-]+$/.test(device)) throw new AgentError("E_INVALID", `${device} is not the path of a device`);
    const { status } = await this.#line.run(`test -b ${device}`, commandTimeoutMs);
    if (status !== 0) throw new AgentError("E_FAILED", `the board has no block device ${device}`);
    return device;
  }

  /** What the board's kernel knows of a block device; what it does not know is left out. */
  async describe(device: string): Promise<FlashTarget> {
    const node = `/sys/class/block/${device.slice(device.lastIndexOf("/") + 1)}`;
    const disk = `{ [ -e ${node}/partition ] && echo ${node}/.. || echo ${node}; }`;
    const facts = ["size", "device/model", "device/name", "device/serial", "device/cid"];
    const files = facts.map((fact) => (fact === "size" ? `${node}/size` : `$d/${fact}`)).join(" ");
    const command = `d=$(${disk}); for f in ${files}; do echo "$f: $(cat $f 2>/dev/null)"; done`;
    const { output } = await this.#line.run(command, commandTimeoutMs);
    const fact = (name: string) => new RegExp(`/${name}: *(\\S.*?) *$`, "m").exec(output)?.[1];
    const sectors = Number(fact("size"));
    const model = fact("device/model") ?? fact("device/name");
    const [serial, cid] = [fact("device/serial"), fact("device/cid")];
    return {
      path: device,
      ...(sectors > 0 && { bytes: sectors * 512 }),
      ...(model && { model }),
      ...(serial && { serial }),
      ...(cid && { cid }),
    };
  }

  /** Fetches, decompresses and writes an image with the tools of the bundle. */
  async writeWithShell({ url, encoding, target, bytes, onProgress }: WriteOptions): Promise<void> {
    const tools = ["curl", "dd", "sha256sum", ...(encoding === null ? [] : [decompressors[encoding]])];
    for (const tool of tools) {
      const { status } = await this.#line.run(`command -v ${tool}`, commandTimeoutMs);
      if (status !== 0) throw new AgentError("E_UNSUPPORTED", `the flasher bundle has no ${tool}`);
    }
    const decompress = encoding === null ? "" : ` | ${decompressors[encoding]}`;
    // O_DIRECT keeps the progress honest, but cannot write a last piece that is no whole sector.
    const direct = bytes % 512 === 0 ? " oflag=direct" : "";
    const write = `dd of=${target} bs=1M iflag=fullblock${direct}`;
    await this.#job(`curl -fsSL ${url}${decompress} | ${write}`, ddPosition(1), onProgress);
  }

  /** Has the fls program, fetched from `binaryUrl`, do it. */
  async writeWithFls({ url, target }: WriteOptions, binaryUrl: string): Promise<void> {
    await this.#line.check(`curl -fsSL ${binaryUrl} -o /sbin/fls && chmod 755 /sbin/fls`, commandTimeoutMs);
    // It reports every second; what it says is its progress.
    const said = "echo pos: $(wc -c < /tmp/flash.log)";
    await this.#job(`/sbin/fls from-url -i 1.0 -n --o-direct ${url} ${target}`, said, () => {});
  }

  /** Puts everything on the disk, and makes sure that what is read next comes from there. */
  async sync(): Promise<void> {
    await this.#line.check("sync", syncTimeoutMs);
    await this.#line.run("echo 3 > /proc/sys/vm/drop_caches", syncTimeoutMs);
  }

  /** Digest of the first `bytes` of a device, in hexadecimal. */
  async sha256(target: string, bytes: number, onProgress: (bytes: number) => void): Promise<string> {
    const mebibytes = Math.floor(bytes / 2 ** 20);
    const rest = bytes % 2 ** 20;
    const reads = [
      ...(mebibytes > 0 ? [`dd bs=1M count=${mebibytes} iflag=fullblock`] : []),
      ...(rest > 0 ? [`dd bs=${rest} count=1 iflag=fullblock`] : []),
    ].join(" && ");
    await this.#job(`{ ${reads}; } < ${target} | sha256sum > /tmp/flash.sum`, ddPosition(0), onProgress);
    const [digest] = /^[0-9a-f]{64}/m.exec(await this.#line.check("cat /tmp/flash.sum", commandTimeoutMs)) ?? [];
    if (digest === undefined) throw new AgentError("E_FAILED", "the board did not answer with a digest");
    return digest;
  }

  /**
   * Runs a command in the background and watches it move.
   * @param position command that prints `pos: BYTES`
   */
  async #job(command: string, position: string, onProgress: (bytes: number) => void): Promise<void> {
    await this.#line.check("rm -f /tmp/flash.end", commandTimeoutMs);
    // The file tells how it ended; the word on the console only that it did, as it may be torn by other output.
    const report = `end=COMPLETE || end=FAILED; echo $end > /tmp/flash.end; echo FLASH_$end`;
    this.#console.send(`( ( set -o pipefail; ${command} ) > /tmp/flash.log 2>&1 && ${report} ) &\n`);
    let farthest = -1;
    let movedAtMs = performance.now();
    for (;;) {
      // A console that goes now is taken back by the next command; the job does not need it.
      await this.#console.hear(/FLASH_(COMPLETE|FAILED)\n/, pollEveryMs).catch(unlessLost);
      const { output } = await this.#line.run(`cat /tmp/flash.end; ${position}`, commandTimeoutMs);
      const reached = Math.max(-1, ...[...output.matchAll(/pos:\s*(\d+)/g)].map(([, bytes]) => Number(bytes)));
      if (reached > farthest) {
        farthest = reached;
        movedAtMs = performance.now();
        onProgress(reached);
      }
      if (/^COMPLETE$/m.test(output)) return;
      if (/^FAILED$/m.test(output)) {
        const { output: reason } = await this.#line.run("cat /tmp/flash.log", commandTimeoutMs);
        throw new AgentError("E_FAILED", `on the board: ${lastLines(reason)}`);
      }
      if (performance.now() - movedAtMs > stallTimeoutMs) {
        throw new AgentError(
          "E_TIMEOUT",
          `nothing moved for ${stallTimeoutMs / 1000} s, ${Math.max(0, farthest)} bytes in`,
        );
      }
    }
  }
}

function unlessLost(error: unknown): void {
  if (!(error instanceof ConsoleLost)) throw error;
}

/** Prints how far the running dd is, by its input (0) or its output (1). */
const ddPosition = (descriptor: 0 | 1) => `for p in $(pidof dd); do grep pos: /proc/$p/fdinfo/${descriptor}; done`;
