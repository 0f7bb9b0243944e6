/** A real OpenSSH server as the board: its own keys, its own configuration, a free port, no account but that of this user. */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { userInfo } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { missingPrograms } from "../../scripts/programs.mjs";
import { freePort, scratch } from "./agent.ts";

const program = "/usr/sbin/sshd";

const missing = (missingPrograms as (programs: string[]) => string[])([program, "ssh", "scp", "sftp", "ssh-keygen"]);

/** Why tests with it cannot run here, or false. Never a reason in CI. */
export const noSshd = missing.length > 0 && `${missing.join(", ")} not installed`;

export interface Sshd {
  readonly port: number;
  /** Who may log in. */
  readonly user: string;
  /** Text of the private key that it lets in. */
  readonly key: string;
  readonly keyPath: string;
  /** Its host key, as in known_hosts. */
  readonly hostKeys: Readonly<Record<"ed25519" | "ecdsa", string>>;
  readonly directory: string;
  /** What it has logged. */
  log(): string;
  /** Ends it, and the connections that it has. */
  stop(): Promise<void>;
}

/** @param lines more of its configuration */
export async function startSshd(t: Pick<TestContext, "after">, lines: readonly string[] = []): Promise<Sshd> {
  const directory = scratch(t);
  const { username: user, uid } = userInfo();
  const hostKeys = { ed25519: "", ecdsa: "" };
  for (const type of ["ed25519", "ecdsa"] as const) {
    hostKeys[type] = readPublic(makeKey(directory, `host_${type}`, type));
  }
  const keyPath = makeKey(directory, "id_board", "ed25519");
  writeFileSync(join(directory, "authorized_keys"), `${readPublic(keyPath)}\n`, { mode: 0o600 });
  // Where a server of root locks itself in; Debian makes it at boot.
  if (uid === 0) mkdirSync("/run/sshd", { recursive: true, mode: 0o755 });
  const port = await freePort();
  const config = [
    `Port ${port}`,
    "ListenAddress 127.0.0.1",
    `HostKey ${directory}/host_ed25519`,
    `HostKey ${directory}/host_ecdsa`,
    `AuthorizedKeysFile ${directory}/authorized_keys`,
    `PidFile ${directory}/pid`,
    "StrictModes no",
    "UsePAM no",
    "PasswordAuthentication no",
    "KbdInteractiveAuthentication no",
    "PermitRootLogin prohibit-password",
    "PrintMotd no",
    "PrintLastLog no",
    "AcceptEnv JMP_*",
    "MaxSessions 20",
    "Subsystem sftp internal-sftp",
    ...lines,
  ];
  writeFileSync(join(directory, "sshd_config"), config.join("\n") + "\n");
  const child = spawn(program, ["-D", "-e", "-f", join(directory, "sshd_config")], { detached: true });
  let log = "";
  child.stderr.on("data", (chunk: Buffer) => (log += chunk.toString()));
  const stop = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, "exit");
    // Each connection has sessions of its own, so the group is not all of it; they end with their connections.
    process.kill(-(child.pid ?? 0), "SIGTERM");
    await exited;
  };
  t.after(stop);
  for (let waited = 0; !log.includes("Server listening"); waited += 20) {
    if (child.exitCode !== null || waited > 10_000) throw new Error(`sshd does not start:\n${log}`);
    await sleep(20);
  }
  return { port, user, key: readFileSync(keyPath, "utf8"), keyPath, hostKeys, directory, log: () => log, stop };
}

/** @returns path of the private key */
export function makeKey(directory: string, name: string, type: string): string {
  const path = join(directory, name);
  // A longer one takes seconds to make.
  const bits = type === "rsa" ? ["-b", "2048"] : [];
  const made = spawnSync("ssh-keygen", ["-q", "-t", type, ...bits, "-N", "", "-C", name, "-f", path]);
  if (made.status !== 0) throw new Error(`ssh-keygen: ${made.stderr.toString()}`);
  return path;
}

function readPublic(path: string): string {
  return readFileSync(`${path}.pub`, "utf8").trim();
}

/** What stands in for a board that is something else than an SSH server. */
export async function startListener(t: Pick<TestContext, "after">, serve: (socket: Socket) => void): Promise<number> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    serve(socket);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return (server.address() as { port: number }).port;
}
