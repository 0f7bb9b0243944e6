import { readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { AgentError } from "../../agent/driver/errors.ts";
import type { Logger } from "../../agent/driver/log.ts";
import type { Address, DnsEntry } from "./config.ts";
import type { AddressService, Names } from "./address-service.ts";
import type { Lease } from "./interface.ts";
import type { Child, Privileged } from "./privilege.ts";

/** DHCP and DNS by dnsmasq: its files as text, and its process. */

export interface DnsmasqOptions {
  readonly directory: string;
  readonly interface: string;
  readonly gatewayIp: string;
  readonly dnsServers: readonly string[];
  /** Undefined: names only, no addresses. */
  readonly dhcp: { readonly start: string; readonly end: string } | undefined;
}

export function configText({ directory, gatewayIp, dnsServers, dhcp, ...options }: DnsmasqOptions): string {
  const lines = [
    `interface=${options.interface}`,
    // Else it takes port 53 of the loopback as well, which a second network or the host's own resolver needs.
    "except-interface=lo",
    "bind-interfaces",
    ...(dhcp === undefined
      ? []
      : [`dhcp-range=${dhcp.start},${dhcp.end},12h`, `dhcp-option=option:router,${gatewayIp}`]),
    ...(dhcp === undefined ? [] : [`dhcp-leasefile=${join(directory, "dnsmasq.leases")}`]),
    `pid-file=${join(directory, "dnsmasq.pid")}`,
    `addn-hosts=${join(directory, "hosts.local")}`,
    ...(dhcp === undefined
      ? []
      : [`dhcp-hostsfile=${join(directory, "dhcp-hosts")}`, "dhcp-sequential-ip", "log-dhcp"]),
    "no-resolv",
    "no-hosts",
    "keep-in-foreground",
    ...dnsServers.map((server) => `server=${server}`),
  ];
  return lines.map((line) => `${line}\n`).join("");
}

export function hostsText(entries: readonly DnsEntry[]): string {
  return entries.map(({ ip, hostname }) => `${ip} ${hostname}\n`).join("");
}

/** Addresses without a MAC are for NAT alone. */
export function dhcpHostsText(addresses: readonly Address[]): string {
  return addresses
    .filter(({ mac }) => mac !== undefined)
    .map(({ mac, ip, hostname }) => [mac, ip, hostname].filter((word) => word !== undefined).join(",") + "\n")
    .join("");
}

/** Lines of the lease file: `<expiry> <mac> <ip> <hostname or *> <client id>`. Others (`duid …`) are passed over. */
export function parseLeases(text: string): Lease[] {
  return text.split("\n").flatMap((line) => {
    const [expiry, mac, ip, hostname] = line.trim().split(/\s+/);
    if (mac === undefined || ip === undefined || hostname === undefined || !/^\d+$/.test(expiry ?? "")) return [];
    return [{ mac, ip, hostname: hostname === "*" ? "" : hostname, expiry: Number(expiry) }];
  });
}

const startTimeoutMs = 2_000;
/** Between SIGTERM and SIGKILL. */
const stopTimeoutMs = 5_000;
const pollMs = 20;
const stderrTailChars = 4_096;

export class Dnsmasq implements AddressService {
  readonly #options: DnsmasqOptions;
  readonly #privileged: Privileged;
  readonly #log: Logger;
  #child: Child | undefined;

  constructor(options: DnsmasqOptions, privileged: Privileged, log: Logger) {
    this.#options = options;
    this.#privileged = privileged;
    this.#log = log;
  }

  get running(): boolean {
    return this.#child !== undefined;
  }

  /** @throws AgentError E_FAILED with what it said */
  async start(names: Names): Promise<void> {
    const { directory } = this.#options;
    await this.#write("dnsmasq.conf", configText(this.#options));
    await this.#writeNames(names);
    await rm(this.#path("dnsmasq.pid"), { force: true });
    const child = this.#privileged.spawn(["dnsmasq", `--conf-file=${join(directory, "dnsmasq.conf")}`]);
    child.stdin.end();
    child.stdout.resume();
    let stderr = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr = (stderr + text).slice(-stderrTailChars)));
    this.#child = child;
    const gone = () => {
      if (this.#child !== child) return;
      this.#child = undefined;
      if (started) this.#log.error(`dnsmasq ended by itself (${child.signalCode ?? child.exitCode}): ${stderr.trim()}`);
    };
    let started = false;
    child.once("error", (error) => {
      stderr += error.message;
      gone();
    });
    child.once("close", gone);
    // It writes the pid file when its sockets are bound and its files read.
    for (const began = performance.now(); (await this.#pid()) === undefined; await sleep(pollMs)) {
      if (this.#child !== child) throw new AgentError("E_FAILED", `dnsmasq failed to start: ${stderr.trim()}`);
      if (performance.now() - began < startTimeoutMs) continue;
      await this.stop();
      throw new AgentError("E_FAILED", "dnsmasq started but did not create pidfile within timeout");
    }
    started = true;
  }

  async update(names: Names): Promise<void> {
    await this.#writeNames(names);
    if (!(await this.#privileged.kill(await this.#target(), "SIGHUP"))) {
      throw new AgentError("E_FAILED", "dnsmasq does not run any more");
    }
  }

  async leases(): Promise<Lease[]> {
    return parseLeases(await readFile(this.#path("dnsmasq.leases"), "utf8").catch(() => ""));
  }

  async stop(): Promise<void> {
    const pid = await this.#target();
    this.#child = undefined;
    if (pid === undefined) return;
    await this.#privileged.kill(pid, "SIGTERM");
    for (const began = performance.now(); await this.#isOurs(pid); await sleep(pollMs)) {
      if (performance.now() - began < stopTimeoutMs) continue;
      await this.#privileged.kill(pid, "SIGKILL");
      break;
    }
    await rm(this.#path("dnsmasq.pid"), { force: true });
  }

  /** Whom signals are for. Our child may be sudo, and the file may have been deleted; sudo hands signals on. */
  async #target(): Promise<number | undefined> {
    return (await this.#pid()) ?? this.#child?.pid;
  }

  /** The process of the pid file, also one that an agent before us has started. */
  async #pid(): Promise<number | undefined> {
    const text = await readFile(this.#path("dnsmasq.pid"), "latin1").catch(() => "");
    const pid = Number(/^([1-9]\d*)\n?$/.exec(text)?.[1]);
    return (await this.#isOurs(pid)) ? pid : undefined;
  }

  /** Whether it is dnsmasq with our files, and not a later process of the same number. */
  async #isOurs(pid: number): Promise<boolean> {
    const commandLine = await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "");
    return commandLine.split("\0").includes(`--conf-file=${this.#path("dnsmasq.conf")}`);
  }

  async #writeNames({ addresses, dnsEntries }: Names): Promise<void> {
    await this.#write("hosts.local", hostsText(dnsEntries));
    await this.#write("dhcp-hosts", dhcpHostsText(addresses));
  }

  /** Whole or not at all; readable for dnsmasq, which gives up its rights. */
  async #write(name: string, text: string): Promise<void> {
    const path = this.#path(name);
    await writeFile(`${path}.new`, text, { mode: 0o644 });
    await rename(`${path}.new`, path);
  }

  #path(name: string): string {
    return join(this.#options.directory, name);
  }
}
