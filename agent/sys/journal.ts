import { fstatSync } from "node:fs";
import { openDatagramSender, type DatagramSender } from "./unix-datagram.ts";

const journalSocket = "/run/systemd/journal/socket";

/** More than any line that people read; a datagram to the journal may have some 200 KB. */
const longestMessageBytes = 48 * 1024;
/** A journal that stands still may cost this much memory; after that entries are lost, not the agent. */
const mostWaitingBytes = 4 * 1024 * 1024;
const tryAgainMs = 20;
const [EAGAIN, ENOBUFS] = [11, 105];

/** An entry of systemd's journal: field names are upper case letters, digits and underscores. */
export type JournalEntry = Readonly<Record<string, string | number | boolean>>;

export interface Journal {
  /** Never waits for the journal. */
  write(entry: JournalEntry): void;
  /** Hands over what still waits, as far as the journal takes it now. */
  close(): void;
}

/**
 * Whether a descriptor leads to the journal, by its device and inode, which systemd puts into the environment: output that was
 * redirected since then is somebody else's.
 */
export function leadsToJournal(fd: number, env: NodeJS.ProcessEnv = process.env): boolean {
  const told = env["JOURNAL_STREAM"];
  if (told === undefined) return false;
  try {
    const { dev, ino } = fstatSync(fd, { bigint: true });
    return told === `${dev}:${ino}`;
  } catch {
    return false;
  }
}

/** @throws AgentError E_UNSUPPORTED without koffi */
export async function openJournal(socket = journalSocket): Promise<Journal> {
  return new NativeJournal(await openDatagramSender(socket));
}

/** Speaks the journal's own protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): one datagram an entry. */
class NativeJournal implements Journal {
  readonly #sender: DatagramSender;
  #waiting: Buffer[] = [];
  #waitingBytes = 0;
  #lost = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(sender: DatagramSender) {
    this.#sender = sender;
  }

  write(entry: JournalEntry): void {
    const bytes = encodeEntry(entry);
    if (this.#waitingBytes + bytes.length > mostWaitingBytes) {
      this.#lost += 1;
      return;
    }
    this.#waiting.push(bytes);
    this.#waitingBytes += bytes.length;
    if (this.#timer === undefined) this.#drain();
  }

  #drain(): void {
    this.#timer = undefined;
    let sent = 0;
    for (const bytes of this.#waiting) {
      const error = this.#sender.send(bytes);
      if (error === EAGAIN || error === ENOBUFS) break;
      // Any other error is that of a journal that has gone, or will not have this entry: there is nobody to tell.
      sent += 1;
      this.#waitingBytes -= bytes.length;
    }
    this.#waiting = this.#waiting.slice(sent);
    if (this.#waiting.length > 0) this.#timer = setTimeout(() => this.#drain(), tryAgainMs).unref();
    else if (this.#lost > 0) {
      const MESSAGE = `${this.#lost} entries are lost: the journal did not keep up`;
      this.#lost = 0;
      this.write({ MESSAGE, PRIORITY: 4 });
    }
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#drain();
    clearTimeout(this.#timer);
    this.#sender.close();
  }
}

/** As the protocol has it: `NAME=value`, or for a value of several lines its name, its length in 64 bits, itself. */
export function encodeEntry(entry: JournalEntry): Buffer {
  const parts: Buffer[] = [];
  for (const [name, value] of Object.entries(entry)) {
    const bytes = cut(Buffer.from(String(value)));
    if (!bytes.includes(0x0a)) {
      parts.push(Buffer.from(`${name}=`), bytes, Buffer.from("\n"));
      continue;
    }
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(bytes.length));
    parts.push(Buffer.from(`${name}\n`), length, bytes, Buffer.from("\n"));
  }
  return Buffer.concat(parts);
}

/** Not within a character. */
function cut(bytes: Buffer): Buffer {
  if (bytes.length <= longestMessageBytes) return bytes;
  let end = longestMessageBytes;
  while (end > 0 && ((bytes[end] ?? 0) & 0xc0) === 0x80) end -= 1;
  return Buffer.concat([bytes.subarray(0, end), Buffer.from("…")]);
}

/** The name of a field for a key of ours; undefined if the journal would not take one: those with `_` in front are its own. */
export function fieldName(key: string): string | undefined {
  const name = key
    .replace(/[^A-Za-z0-9]+/g, "_")
    .replace(/^[_0-9]+/, "")
    .toUpperCase();
  return name === "" || name.length > 64 ? undefined : name;
}
