/** Host keys that a board may have, from text in the format of known_hosts (sshd(8)), public key files or ssh-keyscan. */

/** One host key: its type, and its blob in base64. */
export interface HostKey {
  readonly type: string;
  readonly base64: string;
}

const typePattern = /^(ssh-|ecdsa-sha2-|sk-)[A-Za-z0-9@.-]+$/;
const base64Pattern = /^[A-Za-z0-9+/]{16,}={0,2}$/;

/**
 * The text is about one board, so the names in front of the keys do not count.
 * @throws Error naming the line that is none, or that there is no key at all
 */
export function parseKnownHosts(text: string): HostKey[] {
  const keys: HostKey[] = [];
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    const words = line.trim().split(/\s+/);
    if (words[0] === "" || words[0]?.startsWith("#")) continue;
    if (words[0]?.startsWith("@")) throw new Error(`line ${index + 1}: ${words[0]} is not supported`);
    const at = words.findIndex((word) => typePattern.test(word));
    const [type, base64] = at === 0 || at === 1 ? words.slice(at) : [];
    // A blob begins with its type again, which shows a line that was cut or mixed up.
    if (type === undefined || base64 === undefined || !base64Pattern.test(base64) || blobType(base64) !== type) {
      throw new Error(`line ${index + 1} is not a host key`);
    }
    keys.push({ type, base64 });
  }
  if (keys.length === 0) throw new Error("there is no host key in it");
  return keys;
}

function blobType(base64: string): string | undefined {
  const blob = Buffer.from(base64, "base64");
  if (blob.length < 4) return undefined;
  return blob.subarray(4, 4 + blob.readUInt32BE(0)).toString("latin1");
}

/**
 * The command with options that let `ssh` accept these host keys only. They come first, as ssh takes the first value of
 * each option. There is no file on the client's machine: ssh (8.5 or later) asks a command, which answers from its own words.
 */
export function withPinnedKeys(command: string, keys: readonly HostKey[]): string {
  const [, program = command, rest = ""] = /^\s*(\S+)([^]*)$/.exec(command) ?? [];
  const lines = keys.map(({ type, base64 }) => `echo %H ${type} ${base64}`).join("; ");
  const options = [
    "-o StrictHostKeyChecking=yes",
    "-o GlobalKnownHostsFile=/dev/null",
    "-o UserKnownHostsFile=/dev/null",
    // Without file name patterns: %H is [address]:port.
    `-o 'KnownHostsCommand=/bin/sh -c "set -f; ${lines}"'`,
  ];
  return `${program} ${options.join(" ")}${rest}`;
}
