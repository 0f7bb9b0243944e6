import { createHash } from "node:crypto";
import { Duplex } from "node:stream";
import type { TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { gunzipSync } from "node:zlib";
import * as z from "zod";
import { createCatalog, shippedDrivers, type Catalog } from "../../agent/driver/catalog.ts";
import { defineDriver, type AnyDriver } from "../../agent/driver/driver.ts";
import { DeviceOffline } from "../../agent/driver/errors.ts";
import { power } from "../../boards/power/interface.ts";
import { serialConsole } from "../../boards/serial/interface.ts";
import { download } from "./tftp.ts";

/** What may be wrong with the board, its network or its bundle. */
export interface BoardFaults {
  /** DHCP requests without an answer. */
  dhcpFailures?: number;
  /** What U-Boot says instead of starting the kernel, or what the kernel says instead of a login prompt. */
  bootSays?: string;
  /** Programs that the small system has not. */
  without?: string[];
  /** Flips a bit of what is written. */
  badDisk?: boolean;
  /** U-Boot cannot be stopped, or is not there. */
  mute?: boolean;
  /** Commands that never end. */
  hold?: RegExp;
  /** How many boots say `bootSays`; all without it. */
  faultyBoots?: number;
  /** Answers take a while, so that a console can go before they come. */
  slow?: boolean;
  /** Commands that fail. */
  failing?: RegExp;
}

/** A board that answers like U-Boot and a busybox system do, and really fetches over TFTP and HTTP. */
export class NetbootBoard {
  readonly #t: TestContext;
  readonly #faults: BoardFaults;
  readonly #streams = new Set<Duplex>();
  readonly #environment = new Map<string, string>([["netmask", "255.255.255.0"]]);
  #state: "off" | "boots" | "uboot" | "login" | "password" | "shell" = "off";
  #line = "";
  #dhcpFailures: number;
  readonly files = new Map<string, string>();
  /** All commands it was given. */
  readonly commands: string[] = [];
  /** What was loaded over TFTP, by address. */
  readonly memory = new Map<string, Buffer>();
  disk = Buffer.alloc(0);
  /** How often the console was cut off. */
  losses = 0;
  #consoleBackAtMs = 0;
  #boots = 0;

  constructor(t: TestContext, faults: BoardFaults = {}) {
    this.#t = t;
    this.#faults = faults;
    this.#dhcpFailures = faults.dhcpFailures ?? 0;
  }

  get isOn(): boolean {
    return this.#state !== "off";
  }

  /** The shipped drivers, and `sim.Power` and `sim.Serial` of this board. */
  catalog(): Catalog {
    const config = z.object({});
    const switches = defineDriver({
      types: ["sim.Power"],
      summary: "",
      implements: power,
      config,
      open: () => ({
        methods: {
          on: () => this.switchOn(),
          off: () => void (this.#state = "off"),
          async *read() {},
        },
      }),
    });
    const serial = defineDriver({
      types: ["sim.Serial"],
      summary: "",
      implements: serialConsole,
      config,
      open: () => ({ methods: { connect: () => this.connect() } }),
    });
    const own = createCatalog(
      new Map([
        ["sim.Power", () => Promise.resolve(switches as unknown as AnyDriver)],
        ["sim.Serial", () => Promise.resolve(serial as unknown as AnyDriver)],
      ]),
    );
    return {
      types: () => [...own.types(), ...shippedDrivers.types()],
      load: (type) => own.load(type) ?? shippedDrivers.load(type),
    };
  }

  /** Cuts the console off, as when its adapter is pulled. @param goneMs until it can be opened again */
  unplugConsole(goneMs = 0): void {
    this.losses += 1;
    this.#consoleBackAtMs = performance.now() + goneMs;
    for (const stream of this.#streams) stream.destroy(new Error("the adapter is gone"));
  }

  /** Another console. */
  connect(): Duplex {
    if (performance.now() < this.#consoleBackAtMs) throw new DeviceOffline("no adapter");
    const stream = new Duplex({
      read() {},
      write: (chunk: Buffer, _encoding, done) => {
        for (const character of chunk.toString()) this.#typed(character);
        done();
      },
      destroy: (error, done) => {
        this.#streams.delete(stream);
        done(error);
      },
    });
    this.#streams.add(stream);
    return stream;
  }

  #say(text: string): void {
    for (const stream of this.#streams) stream.push(text.replaceAll("\n", "\r\n"));
  }

  switchOn(): void {
    this.#state = "boots";
    this.#say("\nU-Boot 2023.01-sim (Jan 01 2023)\n\nHit any key to stop autoboot:  2 ");
  }

  #typed(character: string): void {
    if (this.#faults.mute || this.#state === "off") return;
    if (this.#state === "boots") {
      if (character !== "\x1b") return;
      this.#state = "uboot";
      this.#line = "";
      return this.#say("\b\b 0\n=> ");
    }
    if (character === "\x1b") return;
    if (character === "\x03") {
      this.#line = "";
      if (this.#state === "uboot") this.#say("<INTERRUPT>\n=> ");
      if (this.#state === "shell") this.#say("^C\n# \x1b[6n");
      return;
    }
    if (this.#state !== "password") this.#say(character);
    if (character !== "\n") return void (this.#line += character);
    const line = this.#line;
    this.#line = "";
    void this.#entered(line);
  }

  async #entered(line: string): Promise<void> {
    if (this.#state === "login") {
      if (line === "") return this.#say("\nflasher login: ");
      this.#state = "password";
      return this.#say("Password: ");
    }
    if (this.#state === "password") {
      if (line === "") {
        this.#state = "login";
        return this.#say("\nLogin incorrect\nflasher login: ");
      }
      this.#state = "shell";
      // Busybox asks for the cursor after its prompt.
      return this.#say("\nWelcome\n# \x1b[6n");
    }
    const [, command = line, mark] = /^(.*); echo (done\d+=)\$\?$/.exec(line) ?? [];
    if (command !== "#") this.commands.push(command);
    if (this.#faults.hold?.test(command)) return;
    if (/^(boot|custom)/.test(command)) return this.#boot();
    const job = /^\( \( set -o pipefail; (.*) \) > \/tmp\/flash\.log/.exec(command)?.[1];
    if (job !== undefined) {
      this.#say("# \x1b[6n");
      return await this.#runJob(job);
    }
    const run = this.#state === "uboot" ? this.#uboot(command) : this.#shell(command);
    const answer = await run;
    const { status, output } = this.#faults.failing?.test(command) ? { status: 1, output: "it broke" } : answer;
    if (this.#faults.slow) await sleep(20);
    const prompt = this.#state === "uboot" ? "=> " : "# \x1b[6n";
    this.#say(`${output === "" ? "" : `${output}\n`}${mark === undefined ? "" : `${mark}${status}\n`}${prompt}`);
  }

  #boot(): void {
    const says = this.#faults.bootSays;
    this.#boots += 1;
    if (says !== undefined && this.#boots <= (this.#faults.faultyBoots ?? Infinity)) return this.#say(says);
    this.#state = "login";
    this.#say("\nStarting kernel ...\n\n\x1b[1mflasher\x1b[0m login: ");
  }

  async #uboot(command: string): Promise<{ status: number; output: string }> {
    const [word = "", ...words] = command.split(" ");
    const ok = (output = "") => ({ status: 0, output });
    if (word === "version") return ok("U-Boot 2023.01-sim (Jan 01 2023)\n\ncc 12");
    if (word === "setenv") {
      this.#environment.set(words[0] ?? "", words.slice(1).join(" ").replaceAll("'", ""));
      return ok();
    }
    if (word === "printenv") {
      const value = this.#environment.get(words[0] ?? "");
      return value === undefined
        ? { status: 1, output: `## Error: "${words[0]}" not defined` }
        : ok(`${words[0]}=${value}`);
    }
    if (word === "dhcp") {
      if (this.#dhcpFailures-- > 0) return { status: 1, output: "BOOTP broadcast 1\nRetry time exceeded" };
      this.#environment.set("ipaddr", "10.1.1.2").set("gatewayip", "10.1.1.1");
      return ok("DHCP client bound to address 10.1.1.2 (1 ms)");
    }
    if (word === "tftpboot") {
      const [address = "", filename = ""] = words;
      try {
        const port = Number(this.#environment.get("tftpdstp"));
        const content = await download(this.#t, { port, filename });
        this.memory.set(address, content);
        return ok(`Loading: ####\ndone\nBytes transferred = ${content.length} (${content.length.toString(16)} hex)`);
      } catch (error) {
        return { status: 1, output: `TFTP error: '${(error as Error).message}' (1)` };
      }
    }
    return { status: 1, output: `Unknown command '${word}' - try 'help'` };
  }

  async #shell(command: string): Promise<{ status: number; output: string }> {
    const ok = (output = "") => ({ status: 0, output });
    if (command === "uname -r") return ok("6.1.0-sim");
    if (command === "ls -l /sys/class/block/") {
      return ok("lrwxrwxrwx 1 root root 0 mmcblk1 -> ../../devices/platform/bus/4fb0000.mmc/block/mmcblk1");
    }
    if (command.startsWith("d=$(")) {
      const node = "/sys/class/block/mmcblk1";
      const facts = { name: "SIM1G", serial: "0x1234", cid: "1b534d30303030301012345678011a00" };
      const lines = Object.entries(facts).map(([name, value]) => `${node}/device/${name}: ${value}`);
      return ok([`${node}/size: ${2 ** 21}`, `${node}/device/model: `, ...lines].join("\n"));
    }
    if (command.startsWith("grep -lx PARTNAME=rootfs ")) return ok("/sys/class/block/mmcblk1/uevent");
    if (command.startsWith("grep -lx ")) return { status: 1, output: "" };
    const [, tool] = /^command -v (\w+)$/.exec(command) ?? [];
    if (tool !== undefined)
      return this.#faults.without?.includes(tool) ? { status: 127, output: "" } : ok(`/bin/${tool}`);
    const [, device] = /^test -b (\S+)$/.exec(command) ?? [];
    if (device !== undefined) return { status: device === "/dev/mmcblk1" ? 0 : 1, output: "" };
    const [, file, more] = /^cat (\S+?)(;.*)?$/.exec(command) ?? [];
    if (file !== undefined) {
      const content = this.files.get(file);
      const position = more === undefined ? "" : `pos:\t${this.disk.length}`;
      return ok([content ?? `cat: can't open '${file}'`, position].join("\n"));
    }
    const [, removed] = /^rm -f (\S+)$/.exec(command) ?? [];
    if (removed !== undefined) this.files.delete(removed);
    return ok();
  }

  /** A pipeline in the background: fetching and writing, or digesting. */
  async #runJob(job: string): Promise<void> {
    let end = "COMPLETE";
    if (this.#faults.slow) await sleep(100);
    try {
      if (this.#faults.failing?.test(job)) throw new Error("it broke");
      const [, url] = /(?:curl -fsSL|from-url .*) (http:\S+)/.exec(job) ?? [];
      if (url !== undefined) {
        const answer = await fetch(url);
        if (!answer.ok) throw new Error(`curl: (22) The requested URL returned error: ${answer.status}`);
        const body = Buffer.from(await answer.arrayBuffer());
        this.disk = Buffer.from(job.includes("| zcat") ? gunzipSync(body) : body);
        if (this.#faults.badDisk && this.disk.length > 0) this.disk[0] = (this.disk[0] ?? 0) ^ 1;
      } else {
        const sizes = [...job.matchAll(/bs=(1M|\d+) count=(\d+)/g)];
        const bytes = sizes.reduce(
          (sum, [, size, count]) => sum + (size === "1M" ? 2 ** 20 : Number(size)) * Number(count),
          0,
        );
        const digest = createHash("sha256").update(this.disk.subarray(0, bytes)).digest("hex");
        this.files.set("/tmp/flash.sum", `${digest}  -`);
      }
    } catch (error) {
      this.files.set("/tmp/flash.log", (error as Error).message);
      end = "FAILED";
    }
    this.files.set("/tmp/flash.end", end);
    this.#say(`FLASH_${end}\n`);
  }
}
