import { readdir, readFile, readlink } from "node:fs/promises";
import { join } from "node:path";
import { attribute } from "../../sys/sysfs.ts";

/** A port that somebody holds. */
export interface HeldPort {
  readonly protocol: "tcp" | "udp";
  readonly port: number;
  /** Numeric; `0.0.0.0` and `::` are all. */
  readonly address: string;
  readonly uid: number;
  readonly inode: string;
}

/** TCP_LISTEN of net/tcp_states.h, and TCP_CLOSE, which the kernel shows for a UDP socket that waits. */
const waits = { tcp: "0A", udp: "07" } as const;

/** What is listened on, from /proc/net, whose format proc_pid_net(5) tells. */
export async function heldPorts(proc: string): Promise<HeldPort[]> {
  const tables = (["tcp", "udp"] as const).flatMap((protocol) =>
    [protocol, `${protocol}6`].map(async (table) => {
      const text = await readFile(join(proc, "net", table), "utf8").catch(() => "");
      return parseSockets(text, protocol);
    }),
  );
  return (await Promise.all(tables)).flat();
}

/** Reads one table: those of its sockets that wait for peers. */
export function parseSockets(text: string, protocol: "tcp" | "udp"): HeldPort[] {
  return text.split("\n").flatMap((line) => {
    const [, local = "", , state, , , , uid, , inode] = line.trim().split(/\s+/);
    const [, hex, port] = /^([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4})$/.exec(local) ?? [];
    if (hex === undefined || port === undefined || state !== waits[protocol] || inode === undefined) return [];
    return [{ protocol, port: parseInt(port, 16), address: addressOf(hex), uid: Number(uid), inode }];
  });
}

/** An address is printed as words of 32 bits of the machine, which all we run on have with their low byte first. */
function addressOf(hex: string): string {
  const bytes = Buffer.from(hex, "hex").swap32();
  if (bytes.length === 4) return bytes.join(".");
  if (bytes.every((byte) => byte === 0)) return "::";
  const mapped = bytes.subarray(0, 12).equals(Buffer.from("00000000000000000000ffff", "hex"));
  if (mapped) return bytes.subarray(12).join(".");
  const groups = Array.from({ length: 8 }, (_, index) => bytes.readUInt16BE(2 * index).toString(16));
  // As the rest of the world writes it, with :: for the zeros.
  return new URL(`http://[${groups.join(":")}]`).hostname.slice(1, -1);
}

export interface Process {
  readonly pid: number;
  readonly name: string;
}

/** Who has these sockets, by their inodes, as far as this user may see it. */
export async function holdersOf(inodes: ReadonlySet<string>, proc: string): Promise<Map<string, Process>> {
  const holders = new Map<string, Process>();
  const pids = (await readdir(proc).catch(() => [])).filter((name) => /^\d+$/.test(name));
  for (const pid of pids) {
    for (const fd of await readdir(join(proc, pid, "fd")).catch(() => [])) {
      const target = await readlink(join(proc, pid, "fd", fd)).catch(() => "");
      const inode = /^socket:\[(\d+)\]$/.exec(target)?.[1];
      if (inode === undefined || !inodes.has(inode) || holders.has(inode)) continue;
      holders.set(inode, { pid: Number(pid), name: (await attribute(proc, pid, "comm")) ?? "a process" });
    }
    if (holders.size === inodes.size) break;
  }
  return holders;
}

/** A process and those that it descends from, nearest first. */
export async function ancestry(pid: number, proc: string): Promise<number[]> {
  const line: number[] = [];
  for (let here = pid; here > 1 && !line.includes(here);) {
    line.push(here);
    // The name may hold spaces and brackets; the state and the parent come after its last one.
    const stat = await attribute(proc, String(here), "stat");
    here = Number(/\)\s+\S\s+(\d+)/.exec(stat?.slice(stat.lastIndexOf(")")) ?? "")?.[1] ?? 0);
  }
  return line;
}
