import { existsSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import * as z from "zod";
import { AgentError } from "../../agent/driver/errors.ts";
import {
  dropForwardAccepts,
  dropTable,
  forwardAccepts,
  forwardingMarkName,
  markForwarding,
  unusedForwarding,
} from "./nft.ts";
import { findTool, type Privileged } from "./privilege.ts";

const links = z.array(
  z.object({ addr_info: z.array(z.object({ local: z.string(), prefixlen: z.number() })).default([]) }),
);
const routes = z.array(z.object({ dev: z.string().optional() }));

/** The host's network as the kernel and its tools have it: single steps, without memory. */
export class HostNetwork {
  readonly #privileged: Privileged;

  constructor(privileged: Privileged) {
    this.#privileged = privileged;
  }

  /** IPv4 addresses with prefix, in their order; undefined if there is no such interface. @throws AgentError E_FAILED */
  async addresses(name: string): Promise<string[] | undefined> {
    const argv = ["ip", "-j", "-4", "address", "show", "dev", name] as const;
    const text = await this.#privileged.runUnless(/does not exist/, argv);
    if (text === undefined) return undefined;
    const found = links.parse(JSON.parse(text || "[]"));
    return found.flatMap(({ addr_info }) => addr_info.map(({ local, prefixlen }) => `${local}/${prefixlen}`));
  }

  /** Interface of the default route. */
  async wayOut(): Promise<string | undefined> {
    const { code, stdout } = await this.#privileged.attempt(["ip", "-j", "-4", "route", "show", "default"]);
    return code === 0 ? routes.parse(JSON.parse(stdout || "[]"))[0]?.dev : undefined;
  }

  /** The interface with this address and no other, up. */
  async configure(name: string, address: string): Promise<void> {
    await this.#privileged.run(["ip", "addr", "flush", "dev", name]);
    await this.#privileged.run(["ip", "addr", "add", address, "dev", name]);
    await this.#privileged.run(["ip", "link", "set", name, "up"]);
  }

  async deconfigure(name: string): Promise<void> {
    if ((await this.addresses(name)) === undefined) return;
    await this.#privileged.run(["ip", "addr", "flush", "dev", name]);
    await this.#privileged.run(["ip", "link", "set", name, "down"]);
  }

  async addAddress(name: string, address: string): Promise<void> {
    await this.#privileged.run(["ip", "addr", "add", address, "dev", name]);
  }

  async removeAddress(name: string, address: string): Promise<void> {
    await this.#privileged.run(["ip", "addr", "del", address, "dev", name]);
  }

  /** Lets IPv4 packets that come in there go on; the rules that guard them are loaded before. */
  async forward(name: string): Promise<void> {
    if ((await readFile(forwardingFile(name), "latin1")).trim() !== "0") return;
    await this.loadRules(markForwarding(name));
    await this.#setForwarding(name, "1");
  }

  /** Switches forwarding off again where no network on this host needs it any more. */
  async releaseForwarding(): Promise<void> {
    const ruleset = await this.#privileged.run(["nft", "list", "ruleset", "ip"]);
    for (const name of unusedForwarding(ruleset)) {
      await this.#setForwarding(name, "0").catch((error: unknown) => {
        // An interface that has gone took it along.
        if (existsSync(forwardingFile(name))) throw error;
      });
      await this.dropTables(forwardingMarkName(name));
    }
  }

  async #setForwarding(name: string, value: string): Promise<void> {
    // With slashes, as names may have dots (VLANs).
    if (this.#privileged.direct) await writeFile(forwardingFile(name), value);
    else await this.#privileged.run(["sysctl", "-w", `net/ipv4/conf/${name}/forwarding=${value}`]);
  }

  /** @throws AgentError E_FAILED; then nothing has changed */
  async loadRules(text: string): Promise<void> {
    const { code, stderr } = await this.#privileged.attempt(["nft", "-f", "-"], text);
    if (code !== 0) throw new AgentError("E_FAILED", `Failed to load nftables ruleset: ${stderr.trim()}`);
  }

  async dropTables(...names: string[]): Promise<void> {
    await this.loadRules(names.map(dropTable).join(""));
  }

  /** Empty if there is no such table. */
  async rules(table: string): Promise<string> {
    if (findTool("nft") === undefined) return "";
    const { code, stdout } = await this.#privileged.attempt(["nft", "list", "table", "ip", table]);
    return code === 0 ? stdout : "";
  }

  /** Gets both interfaces past Docker, where it drops what is forwarded. @returns whether it does */
  async passDocker(inside: string, outside: string): Promise<boolean> {
    const chain = await this.#dockerChain();
    if (!chain.includes("policy drop")) return false;
    await this.loadRules(forwardAccepts(inside, outside));
    return true;
  }

  async unpassDocker(inside: string): Promise<void> {
    const rules = dropForwardAccepts(await this.#dockerChain(), inside);
    if (rules !== "") await this.loadRules(rules);
  }

  async #dockerChain(): Promise<string> {
    const { stdout } = await this.#privileged.attempt(["nft", "-a", "list", "chain", "ip", "filter", "FORWARD"]);
    return stdout;
  }

  /** Whether a running NetworkManager could touch our interface. */
  async hasNetworkManager(): Promise<boolean> {
    if (findTool("nmcli") === undefined) return false;
    return (await this.#privileged.attempt(["nmcli", "general", "status"])).code === 0;
  }

  async setManaged(name: string, managed: boolean): Promise<void> {
    await this.#privileged.run(["nmcli", "device", "set", name, "managed", managed ? "yes" : "no"]);
  }
}

const forwardingFile = (name: string) => `/proc/sys/net/ipv4/conf/${name}/forwarding`;
