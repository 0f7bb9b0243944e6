import { execFileSync, type ChildProcess } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
// Plain JavaScript: it also runs before anything is installed.
import { unpackPackages } from "../../scripts/bundle/debian.mjs";
import { missingPrograms } from "../../scripts/programs.mjs";
import type { NetworkNamespace } from "./network-namespace.ts";

/** The servers that labs run today, as Debian ships them. */
export const tftpPeers = ["tftpd-hpa", "atftpd", "dnsmasq"] as const;
export type TftpPeerName = (typeof tftpPeers)[number];

/** The port of all of them: dnsmasq knows no other. */
export const tftpPort = 69;

export interface TftpPeerOptions {
  /** IPv4; each peer in a namespace needs its own. */
  readonly address: string;
  /** The folder that it serves; its files must be readable for everyone. */
  readonly root: string;
  /** It takes new files too, if it can: tftpd-hpa alone. */
  readonly takesFiles?: boolean;
}

const programs = ["dpkg-deb", "dnsmasq", "nsenter", "unshare", "setpriv"];

/** Why the peers cannot run here, or false. Never a reason in CI. */
export function missingTftpPeers(): string | false {
  const missing = missingPrograms(programs);
  if (process.getuid?.() !== 0) missing.push("root (network namespaces)");
  if (missing.length === 0) return false;
  const reason = `the other TFTP servers need ${missing.join(", ")}`;
  if (process.env["CI"]) throw new Error(reason);
  return reason;
}

/** Starts a peer in the namespace, in the foreground, and waits until its port is open; it ends with the namespace. */
export async function startTftpPeer(
  network: Pick<NetworkNamespace, "spawn">,
  name: TftpPeerName,
  options: TftpPeerOptions,
): Promise<ChildProcess> {
  const [command = "", ...args] = commandLine(name, options);
  const child = network.spawn(command, args, { stdio: ["ignore", "ignore", "pipe"] });
  let said = "";
  child.stderr?.on("data", (chunk: Buffer) => (said = (said + chunk.toString()).slice(-2_000)));
  await portOpen(child, options.address, () => said);
  return child;
}

/** All run as root, or they could not read a test's folder. */
function commandLine(name: TftpPeerName, { address, root, takesFiles = false }: TftpPeerOptions): string[] {
  switch (name) {
    case "tftpd-hpa":
      return [unpacked(name, "usr/sbin/in.tftpd"), "--foreground", "--address", `${address}:${tftpPort}`].concat(
        [...(takesFiles ? ["--create"] : []), "--user", "root", "--secure", root], // chroot
      );
    case "atftpd":
      return [unpacked(name, "usr/sbin/atftpd"), "--daemon", "--no-fork", "--user", "root.root"].concat(
        ["--bind-address", address, "--port", `${tftpPort}`, "--tftpd-timeout", "0", "--logfile", "/dev/null"],
        ["--maxthread", "1000", root],
      );
    case "dnsmasq":
      return ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user=root"].concat(
        ["--port=0", `--listen-address=${address}`, "--bind-interfaces", "--log-facility=-"],
        ["--enable-tftp", `--tftp-root=${root}`, "--tftp-max=1000", "--quiet-tftp"],
      );
  }
}

/** tftpd-hpa and atftpd cannot be installed beside each other, and would be started as services. */
function unpacked(name: "tftpd-hpa" | "atftpd", program: string): string {
  const architecture = execFileSync("dpkg", ["--print-architecture"], { encoding: "utf8" }).trim();
  return join(unpackPackages({ "tftpd-hpa": "tftpd-hpa", atftpd: "atftpd" }, architecture)[name], program);
}

/** Waits until a process has bound UDP port 69 of an address, without a packet. */
export async function portOpen(child: ChildProcess, address: string, said: () => string): Promise<void> {
  // As the kernel prints it: the address as a number in the order of the host's bytes, here little-endian.
  const octets = address.split(".").map((octet) => Number(octet).toString(16).padStart(2, "0"));
  const local = ` ${octets.toReversed().join("")}:${tftpPort.toString(16).padStart(4, "0")} `.toUpperCase();
  for (let waitedMs = 0; waitedMs < 20_000; waitedMs += 20) {
    if (child.exitCode !== null) throw new Error(`it ended with ${child.exitCode}: ${said()}`);
    // nsenter becomes the server, in its namespace; before that this is our own table.
    if (readFileSync(`/proc/${child.pid}/net/udp`, "utf8").includes(local)) return;
    await sleep(20);
  }
  throw new Error(`it does not listen on ${address}: ${said()}`);
}
