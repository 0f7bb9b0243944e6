import { once } from "node:events";
import type { Readable } from "node:stream";
import type { NetworkNamespace } from "./network-namespace.ts";

/** Starts dnsmasq as the DHCP server of a machine's `eth0`, and as nothing else; resolves when it listens. */
export async function startDnsmasq(machine: NetworkNamespace, options: readonly string[]): Promise<void> {
  const child = machine.spawn(
    "dnsmasq",
    ["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--log-facility=-"].concat(
      ["--interface=eth0", "--bind-interfaces", "--leasefile-ro", "--dhcp-authoritative"],
      // It would ping each address first, for three seconds.
      ["--no-ping", ...options],
    ),
    { stdio: ["ignore", "ignore", "pipe"] },
  );
  let said = "";
  child.stderr?.on("data", (chunk: Buffer) => (said += chunk.toString()));
  const exited = once(child, "exit").then(() => {
    throw new Error(`dnsmasq does not start: ${said}`);
  });
  exited.catch(() => {});
  while (!said.includes("sockets bound")) await Promise.race([once(child.stderr as Readable, "data"), exited]);
}
