import { randomBytes } from "node:crypto";
import { symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { buildAck, buildData, buildError, buildRequest, type OptionList } from "../../net/tftp/protocol.ts";
import { inShort, TftpPeer } from "./tftp.ts";

/**
 * The rules of TFTP's RFCs as conversations: what a client says, packet by packet, and which answers keep the rule.
 * Any server that serves {@link conformanceFiles} can be asked.
 */
export interface Rule {
  /** RFC and section. */
  readonly section: string;
  readonly rule: string;
  /** Talks to the server. @returns what it said, in short, and remarks of the script's own */
  readonly script: (talk: Talk) => Promise<string[]>;
  readonly verdict: (heard: readonly string[]) => Verdict;
}

export type Verdict = "kept" | "broken" | "unsupported";

const content = randomBytes(3_000);

/** What the server serves, and must let be written: a folder with these files. */
export async function conformanceFiles(root: string): Promise<void> {
  const files: Record<string, string | Buffer> = { empty: "", text: "a\nb\rc\r\n" };
  for (const length of [511, 512, 513, 1024, 3000]) files[`f${length}`] = content.subarray(0, length);
  // Block 65536 and two more, at a block size of 8.
  files.long = Buffer.alloc(8 * 65_537 + 1, "01234567");
  for (const [name, bytes] of Object.entries(files)) await writeFile(join(root, name), bytes);
  await symlink("/etc/passwd", join(root, "link-out"));
}

/** A patient client: every server repeats what it said within this time. */
const patienceMs = 3_500;
/** Longer than any server takes to answer at once, shorter than it takes to repeat itself. */
const soonMs = 100;

/** One client and what it can say. */
export class Talk {
  readonly #open: () => Promise<TftpPeer>;
  readonly #peers: TftpPeer[];
  readonly peer: TftpPeer;

  private constructor(open: () => Promise<TftpPeer>, peer: TftpPeer) {
    this.#open = open;
    this.#peers = [peer];
    this.peer = peer;
  }

  static async begin(open: () => Promise<TftpPeer>): Promise<Talk> {
    return new Talk(open, await open());
  }

  /** Another port of the same client machine. */
  async another(): Promise<TftpPeer> {
    const peer = await this.#open();
    this.#peers.push(peer);
    return peer;
  }

  /** Tells the server that nothing more is wanted. */
  end(): void {
    for (const peer of this.#peers) {
      if (peer.transferPort !== undefined) peer.error(0, "enough");
      peer.close();
    }
  }

  read(name: string, options: OptionList = [], mode = "octet"): void {
    this.peer.raw(buildRequest("rrq", name, mode, options));
  }

  write(name: string, options: OptionList = [], mode = "octet"): void {
    this.peer.raw(buildRequest("wrq", name, mode, options));
  }

  say(packet: Uint8Array): void {
    if (this.peer.transferPort !== undefined) this.peer.sendTo(this.peer.transferPort, packet);
  }

  ack(block: number): void {
    this.say(buildAck(block));
  }

  data(block: number, bytes: Uint8Array): void {
    this.say(buildData(block, bytes));
  }

  hear(timeoutMs = patienceMs): Promise<string> {
    return this.peer.hear(timeoutMs);
  }

  /** The next packet that is not this one again. */
  async hearOther(than: string): Promise<string> {
    let heard = await this.hear();
    while (heard === than) heard = await this.hear();
    return heard;
  }

  /** Everything that comes until it is quiet; the first packet may take longer, on a machine that is busy. */
  async all(quietMs = soonMs, firstMs = Math.max(quietMs, 600)): Promise<string[]> {
    const heard: string[] = [];
    for (let next = await this.hear(firstMs); next !== "nothing"; next = await this.hear(quietMs)) heard.push(next);
    return heard;
  }

  /** Fetches a whole file in lock-step from a port of its own, for what was written before. */
  async fetch(name: string): Promise<string> {
    const peer = await this.another();
    peer.raw(buildRequest("rrq", name, "octet"));
    const parts: Uint8Array[] = [];
    for (;;) {
      const packet = (await peer.next(patienceMs))?.packet;
      if (packet === undefined) return "nothing";
      if (packet.op !== "data") return inShort(packet);
      if (packet.block === parts.length + 1) parts.push(packet.data);
      peer.ack(packet.block);
      if (packet.data.length < 512) return Buffer.concat(parts).toString("latin1");
    }
  }
}

/** Names of files that are written, never the same twice. */
const fresh = () => `new-${randomBytes(6).toString("hex")}`;

const is =
  (...expected: readonly (string | RegExp)[]) =>
  (heard: readonly string[]): Verdict =>
    heard.length === expected.length &&
    expected.every((one, index) => (typeof one === "string" ? one === heard[index] : one.test(heard[index] ?? "")))
      ? "kept"
      : "broken";

/** For rules of an option or an operation that a server need not have. */
const where =
  (supported: (first: string) => boolean, verdict: (heard: readonly string[]) => Verdict) =>
  (heard: readonly string[]): Verdict =>
    supported(heard[0] ?? "") ? verdict(heard) : "unsupported";

const agreed = (option: string) => (first: string) => first.startsWith("OACK") && first.includes(`${option}=`);
const writes = (first: string) => /^(ACK|OACK)/.test(first);

const rrq = { one: "f511", many: "f3000" };
const window = (size: number): OptionList => [["windowsize", String(size)]];
const half = Buffer.alloc(100, "x");
const full = Buffer.alloc(512, "y");

const rfc1350: readonly Rule[] = [
  {
    section: "RFC 1350 2",
    rule: "a block of less than 512 bytes is the last one",
    script: async (talk) => {
      talk.read(rrq.one);
      const heard = [await talk.hear()];
      talk.ack(1);
      return [...heard, ...(await talk.all(1_200))];
    },
    verdict: is("DATA 1 511"),
  },
  {
    section: "RFC 1350 6",
    rule: "a file that ends on a block's border ends with an empty block",
    script: async (talk) => {
      talk.read("f1024");
      const heard = [await talk.hear()];
      for (const block of [1, 2]) {
        talk.ack(block);
        heard.push(await talk.hear());
      }
      return heard;
    },
    verdict: is("DATA 1 512", "DATA 2 512", "DATA 3 0"),
  },
  {
    section: "RFC 1350 6",
    rule: "an empty file is one empty block",
    script: async (talk) => {
      talk.read("empty");
      return [await talk.hear()];
    },
    verdict: is("DATA 1 0"),
  },
  {
    section: "RFC 1350 4",
    rule: "each transfer has a port of its own",
    script: async (talk) => {
      const other = await talk.another();
      talk.read(rrq.many);
      other.raw(buildRequest("rrq", rrq.many, "octet"));
      await Promise.all([talk.hear(), other.hear(patienceMs)]);
      const ports = [talk.peer.transferPort, other.transferPort, talk.peer.serverPort];
      return [new Set(ports).size === 3 && !ports.includes(undefined) ? "own ports" : `ports ${ports.join(" ")}`];
    },
    verdict: is("own ports"),
  },
  {
    section: "RFC 1350 2",
    rule: "the next block is sent when the one before is acknowledged, and not sooner",
    script: async (talk) => {
      talk.read(rrq.many);
      const heard = await talk.all();
      talk.ack(1);
      return [...heard, ...(await talk.all())];
    },
    verdict: is("DATA 1 512", "DATA 2 512"),
  },
  {
    section: "RFC 1350 2",
    rule: "an ACK for a block that was not sent moves nothing",
    script: async (talk) => {
      talk.read(rrq.many);
      const heard = [await talk.hear()];
      talk.ack(5);
      heard.push(...(await talk.all()).filter((packet) => packet !== "DATA 1 512"));
      talk.ack(1);
      return [...heard, await talk.hearOther("DATA 1 512")];
    },
    verdict: is("DATA 1 512", "DATA 2 512"),
  },
  {
    section: "RFC 1350 2",
    rule: "a block is sent again when its ACK does not come",
    script: async (talk) => {
      talk.read(rrq.many);
      return [await talk.hear(), await talk.hear()];
    },
    verdict: is("DATA 1 512", "DATA 1 512"),
  },
  {
    section: "RFC 1350 6",
    rule: "so is the last one",
    script: async (talk) => {
      talk.read(rrq.one);
      return [await talk.hear(), await talk.hear()];
    },
    verdict: is("DATA 1 511", "DATA 1 511"),
  },
  {
    section: "RFC 1350 4",
    rule: "a stranger gets ERROR 5",
    script: async (talk) => {
      talk.read(rrq.many);
      await talk.hear();
      const stranger = await talk.another();
      stranger.sendTo(talk.peer.transferPort ?? talk.peer.serverPort, buildAck(1));
      return [await stranger.hear(500)];
    },
    verdict: is(/^ERROR 5/),
  },
  {
    section: "RFC 1350 4",
    rule: "and the transfer goes on undisturbed",
    script: async (talk) => {
      talk.read(rrq.many);
      const heard = [await talk.hear()];
      const stranger = await talk.another();
      for (const packet of [buildAck(1), buildError(0, "stop")]) {
        stranger.sendTo(talk.peer.transferPort ?? talk.peer.serverPort, packet);
      }
      heard.push(...(await talk.all()).filter((packet) => packet !== "DATA 1 512"));
      talk.ack(1);
      return [...heard, await talk.hearOther("DATA 1 512")];
    },
    verdict: is("DATA 1 512", "DATA 2 512"),
  },
  {
    section: "RFC 1350 7",
    rule: "an ERROR ends the transfer and is not answered",
    script: async (talk) => {
      talk.read(rrq.many);
      const heard = [await talk.hear()];
      talk.say(buildError(0, "enough"));
      return [...heard, ...(await talk.all(1_500))];
    },
    verdict: is("DATA 1 512"),
  },
  {
    section: "RFC 1350 7",
    rule: "an ERROR that belongs to nothing is not answered",
    script: async (talk) => {
      talk.peer.raw(buildError(0, "what"));
      return talk.all(300);
    },
    verdict: is(),
  },
  {
    section: "RFC 1350 5",
    rule: "a missing file is ERROR 1",
    script: async (talk) => {
      talk.read("nowhere");
      return [await talk.hear()];
    },
    verdict: is(/^ERROR 1/),
  },
  {
    section: "RFC 1350 5",
    rule: "modes are read in any case",
    script: async (talk) => {
      talk.read(rrq.one, [], "OcTeT");
      return [await talk.hear()];
    },
    verdict: is("DATA 1 511"),
  },
  {
    section: "RFC 1350 5",
    rule: "an unknown mode is ERROR 4",
    script: async (talk) => {
      talk.read(rrq.one, [], "parcel");
      return [await talk.hear(500)];
    },
    verdict: is(/^ERROR 4/),
  },
  {
    section: "RFC 1350 5",
    rule: "an unknown operation is ERROR 4",
    script: async (talk) => {
      talk.peer.raw(Buffer.from([0, 9, 1, 2]));
      return [await talk.hear(500)];
    },
    verdict: is(/^ERROR 4/),
  },
  {
    section: "RFC 1350 5",
    rule: "a request without its zero bytes is an ERROR",
    script: async (talk) => {
      talk.peer.raw(Buffer.from("\0\x01f511", "latin1"));
      return [await talk.hear(500)];
    },
    verdict: is(/^ERROR/),
  },
  {
    section: "RFC 1350 5",
    rule: "netascii: LF is sent as CR LF, CR as CR NUL",
    script: async (talk) => {
      talk.read("text", [], "netascii");
      const packet = (await talk.peer.next(patienceMs))?.packet;
      return [packet?.op === "data" ? JSON.stringify(Buffer.from(packet.data).toString("latin1")) : "nothing"];
    },
    verdict: is(JSON.stringify("a\r\nb\r\0c\r\0\r\n")),
  },
  {
    section: "RFC 1350 2",
    rule: "more than 65535 blocks: the number goes on with 0, and nothing is lost",
    script: async (talk) => {
      talk.read("long", [
        ["blksize", "8"],
        ["windowsize", "16"],
      ]);
      const first = (await talk.peer.next(patienceMs))?.packet;
      if (first?.op !== "oack") return ["no block size of 8"];
      const size = Number(first.options.find(([name]) => name === "windowsize")?.[1] ?? 1);
      talk.ack(0);
      let [received, bytes] = [0, 0];
      for (;;) {
        const packet = (await talk.peer.next(patienceMs))?.packet;
        if (packet?.op !== "data") return [`stopped after block ${received}`];
        if (packet.block !== ((received + 1) & 0xffff)) continue;
        received += 1;
        bytes += packet.data.length;
        if (received % size === 0 || packet.data.length < 8) talk.ack(packet.block);
        if (packet.data.length < 8) return [`${bytes} bytes`];
      }
    },
    verdict: where((first) => first !== "no block size of 8", is(`${8 * 65_537 + 1} bytes`)),
  },
];

const rfc1350Writing: readonly Rule[] = [
  {
    section: "RFC 1350 4",
    rule: "a write request is answered by ACK 0, and DATA by its ACK",
    script: async (talk) => {
      talk.write(fresh());
      const heard = [await talk.hear()];
      talk.data(1, full);
      heard.push(await talk.hear());
      talk.data(2, half);
      return [...heard, await talk.hear()];
    },
    verdict: where(writes, is("ACK 0", "ACK 1", "ACK 2")),
  },
  {
    section: "RFC 1350 2",
    rule: "DATA that comes twice is acknowledged twice and written once",
    script: async (talk) => {
      const name = fresh();
      talk.write(name);
      const heard = [await talk.hear()];
      for (let copy = 0; copy < 2; copy += 1) {
        talk.data(1, full);
        heard.push(await talk.hear());
      }
      talk.data(2, half);
      return [...heard, await talk.hear(), String((await talk.fetch(name)).length)];
    },
    verdict: where(writes, is("ACK 0", "ACK 1", "ACK 1", "ACK 2", "612")),
  },
  {
    section: "RFC 1350 2",
    rule: "DATA that comes too early is not taken",
    script: async (talk) => {
      const name = fresh();
      talk.write(name);
      const heard = [await talk.hear()];
      talk.data(2, half);
      await talk.all();
      talk.data(1, full);
      heard.push(await talk.hearOther("ACK 0"));
      talk.data(2, half);
      return [...heard, await talk.hearOther("ACK 1"), String((await talk.fetch(name)).length)];
    },
    verdict: where(writes, is("ACK 0", "ACK 1", "ACK 2", "612")),
  },
  {
    section: "RFC 1350 6",
    rule: "the last ACK is repeated when the last block comes again",
    script: async (talk) => {
      talk.write(fresh());
      const heard = [await talk.hear()];
      talk.data(1, half);
      heard.push(await talk.hear());
      talk.data(1, half);
      return [...heard, await talk.hear(1_000)];
    },
    verdict: where(writes, is("ACK 0", "ACK 1", "ACK 1")),
  },
  {
    section: "RFC 1350 2",
    rule: "an ACK is sent again when DATA does not come",
    script: async (talk) => {
      talk.write(fresh());
      return [await talk.hear(), await talk.hear()];
    },
    verdict: where(writes, is("ACK 0", "ACK 0")),
  },
  {
    section: "none",
    rule: "a file that exists is not overwritten: ERROR 6",
    script: async (talk) => {
      const name = fresh();
      talk.write(name);
      const heard = [await talk.hear()];
      talk.data(1, half);
      await talk.hear();
      const other = await talk.another();
      other.raw(buildRequest("wrq", name, "octet"));
      return [...heard, await other.hear(500)];
    },
    verdict: where(writes, is("ACK 0", /^ERROR 6/)),
  },
  {
    section: "RFC 1350 5",
    rule: "netascii: CR LF is stored as LF, CR NUL as CR",
    script: async (talk) => {
      const name = fresh();
      talk.write(name, [], "netascii");
      const heard = [await talk.hear()];
      talk.data(1, Buffer.from("a\r\nb\r\0c"));
      await talk.hear();
      return [...heard, JSON.stringify(await talk.fetch(name))];
    },
    verdict: where(writes, is("ACK 0", JSON.stringify("a\nb\rc"))),
  },
  {
    section: "none",
    rule: "a file whose transfer breaks off does not appear",
    script: async (talk) => {
      const name = fresh();
      talk.write(name);
      const heard = [await talk.hear()];
      talk.data(1, full);
      await talk.hear();
      talk.say(buildError(0, "power cut"));
      await talk.all(100, 100);
      return [...heard, await talk.fetch(name)];
    },
    verdict: where(writes, is("ACK 0", /^ERROR 1/)),
  },
];

const rfc1123: readonly Rule[] = [
  {
    section: "RFC 1123 4.2.3.1",
    rule: "a duplicate ACK sends nothing (Sorcerer's Apprentice)",
    script: async (talk) => {
      talk.read(rrq.many);
      const heard = [await talk.hear()];
      for (let copy = 0; copy < 3; copy += 1) talk.ack(1);
      heard.push(...(await talk.all()));
      talk.ack(2);
      return [...heard, ...(await talk.all())];
    },
    verdict: is("DATA 1 512", "DATA 2 512", "DATA 3 512"),
  },
  {
    section: "RFC 1123 4.2.3.2",
    rule: "the wait between repeats grows",
    script: async (talk) => {
      talk.read(rrq.many);
      const times: number[] = [];
      for (let copy = 0; copy < 4; copy += 1) {
        if ((await talk.hear(2 * patienceMs)) !== "DATA 1 512") return ["fell silent"];
        times.push(performance.now());
      }
      const waits = times.slice(1).map((at, index) => at - (times[index] ?? 0));
      return [(waits[2] ?? 0) > 1.4 * (waits[0] ?? 0) ? "grows" : `waits ${waits.map(Math.round).join(", ")} ms`];
    },
    verdict: is("grows"),
  },
  {
    section: "RFC 1123 4.2.3.4",
    rule: "names do not lead out of the folder",
    script: async (talk) => {
      const heard: string[] = [];
      for (const name of ["../../../../etc/passwd", "/etc/passwd", "./../etc/passwd"]) {
        const peer = await talk.another();
        peer.raw(buildRequest("rrq", name, "octet"));
        heard.push(await peer.hear(500));
      }
      return heard;
    },
    verdict: is(/^ERROR/, /^ERROR/, /^ERROR/),
  },
  {
    section: "RFC 1123 4.2.3.4",
    rule: "nor do links",
    script: async (talk) => {
      talk.read("link-out");
      return [await talk.hear(500)];
    },
    verdict: is(/^ERROR/),
  },
];

const rfc2347: readonly Rule[] = [
  {
    section: "RFC 2347",
    rule: "a request with unknown options only is answered without an OACK",
    script: async (talk) => {
      talk.read(rrq.one, [["colour", "blue"]]);
      return [await talk.hear()];
    },
    verdict: is("DATA 1 511"),
  },
  {
    section: "RFC 2347",
    rule: "unknown options are left out of the OACK",
    script: async (talk) => {
      talk.read(rrq.one, [["colour", "blue"], ["blksize", "1024"]]); // prettier-ignore
      return [await talk.hear()];
    },
    verdict: is("OACK blksize=1024"),
  },
  {
    section: "RFC 2347",
    rule: "option names are read in any case",
    script: async (talk) => {
      talk.read(rrq.one, [["BlkSize", "1024"]]);
      return [await talk.hear()];
    },
    verdict: is(/^OACK blksize=1024$/i),
  },
  {
    section: "RFC 2347",
    rule: "DATA follows ACK 0, and not sooner",
    script: async (talk) => {
      talk.read(rrq.many, [["blksize", "1024"]]);
      const heard = await talk.all();
      talk.ack(0);
      return [...heard, ...(await talk.all())];
    },
    verdict: is("OACK blksize=1024", "DATA 1 1024"),
  },
  {
    section: "RFC 2347",
    rule: "an OACK is sent again when its ACK does not come",
    script: async (talk) => {
      talk.read(rrq.many, [["blksize", "1024"]]);
      return [await talk.hear(), await talk.hear()];
    },
    verdict: is("OACK blksize=1024", "OACK blksize=1024"),
  },
  {
    section: "RFC 2347",
    rule: "ERROR 8 of the client ends the transfer",
    script: async (talk) => {
      talk.read(rrq.many, [["blksize", "1024"]]);
      const heard = [await talk.hear()];
      talk.say(buildError(8, "no"));
      return [...heard, ...(await talk.all(1_500))];
    },
    verdict: is("OACK blksize=1024"),
  },
  {
    section: "RFC 2347",
    rule: "an option whose value makes no sense is not agreed on",
    script: async (talk) => {
      talk.read("f513", [["blksize", "1024x"]]);
      return [await talk.hear()];
    },
    verdict: is(/^(DATA 1 512$|ERROR 8)/),
  },
  {
    section: "RFC 2347",
    rule: "a write request with options is answered by an OACK, and then by ACK 1",
    script: async (talk) => {
      talk.write(fresh(), [["blksize", "1024"]]);
      const heard = [await talk.hear()];
      talk.data(1, Buffer.alloc(1024));
      heard.push(await talk.hear());
      talk.data(2, half);
      return [...heard, await talk.hear()];
    },
    verdict: where(writes, is("OACK blksize=1024", "ACK 1", "ACK 2")),
  },
];

const rfc2348: readonly Rule[] = [
  ...[8, 1428, 8192, 65_464].map((size): Rule => ({
    section: "RFC 2348",
    rule: `blksize ${size} is answered by itself or a smaller one, and blocks are as long`,
    script: async (talk) => {
      talk.read(rrq.many, [["blksize", String(size)]]);
      const heard = [await talk.hear()];
      talk.ack(0);
      return [...heard, await talk.hear()];
    },
    verdict: ([oack = "", data]) => {
      const agreed = Number(/^OACK blksize=(\d+)$/.exec(oack)?.[1]);
      return agreed <= size && data === `DATA 1 ${Math.min(agreed, 3_000)}` ? "kept" : "broken";
    },
  })),
  {
    section: "RFC 2348",
    rule: "blksize below 8 is not agreed on",
    script: async (talk) => {
      talk.read("f513", [["blksize", "7"]]);
      return [await talk.hear(1_000)];
    },
    verdict: is(/^(DATA 1 512$|ERROR 8)/),
  },
  {
    section: "RFC 2348",
    rule: "blksize above 65464 is answered by a smaller one, or refused",
    script: async (talk) => {
      talk.read("f513", [["blksize", "70000"]]);
      return [await talk.hear(1_000)];
    },
    verdict: ([first = ""]) => {
      const size = Number(/^OACK blksize=(\d+)$/.exec(first)?.[1] ?? 0);
      const isRefused = /^(DATA 1 512$|ERROR 8)/.test(first);
      return isRefused || (size >= 8 && size <= 65_464) ? "kept" : "broken";
    },
  },
];

const rfc2349: readonly Rule[] = [
  ...[1, 255].map((seconds): Rule => ({
    section: "RFC 2349",
    rule: `timeout ${seconds} is agreed on, with this very value`,
    script: async (talk) => {
      talk.read("f513", [["timeout", String(seconds)]]);
      return [await talk.hear()];
    },
    verdict: where((first) => first.startsWith("OACK"), is(`OACK timeout=${seconds}`)),
  })),
  ...[0, 256].map((seconds): Rule => ({
    section: "RFC 2349",
    rule: `timeout ${seconds} is not`,
    script: async (talk) => {
      talk.read("f513", [["timeout", String(seconds)]]);
      return [await talk.hear()];
    },
    verdict: is(/^(DATA 1 512$|ERROR 8)/),
  })),
  {
    section: "RFC 2349",
    rule: "what is lost is sent again within the timeout",
    script: async (talk) => {
      talk.read("f513", [["timeout", "1"]]);
      return [await talk.hear(), await talk.hear(1_400)];
    },
    verdict: where(agreed("timeout"), is("OACK timeout=1", "OACK timeout=1")),
  },
  {
    section: "RFC 2349",
    rule: "tsize 0 is answered by the file's size",
    script: async (talk) => {
      talk.read("f513", [["tsize", "0"]]);
      return [await talk.hear()];
    },
    verdict: is("OACK tsize=513"),
  },
  {
    section: "RFC 2349",
    rule: "tsize in netascii is not the size on the disk",
    script: async (talk) => {
      talk.read("text", [["tsize", "0"]], "netascii");
      return [await talk.hear()];
    },
    verdict: is(/^(DATA 1 11$|ERROR 8|OACK tsize=11$)/),
  },
  {
    section: "RFC 2349",
    rule: "tsize of a write request is echoed",
    script: async (talk) => {
      talk.write(fresh(), [["tsize", "100"]]);
      return [await talk.hear()];
    },
    verdict: where(writes, is("OACK tsize=100")),
  },
];

const rfc7440: readonly Rule[] = [
  {
    section: "RFC 7440 3",
    rule: "windowsize is answered by no more than was asked",
    script: async (talk) => {
      talk.read("f513", window(65_535));
      return [await talk.hear()];
    },
    verdict: where(agreed("windowsize"), ([first = ""]) => (Number(first.split("=")[1]) <= 65_535 ? "kept" : "broken")),
  },
  {
    section: "RFC 7440 3",
    rule: "windowsize 0 is not agreed on",
    script: async (talk) => {
      talk.read("f513", window(0));
      return [await talk.hear()];
    },
    verdict: is(/^(DATA 1 512$|ERROR 8)/),
  },
  {
    section: "RFC 7440 4",
    rule: "a window is sent without waiting, and then its ACK is waited for",
    script: async (talk) => {
      talk.read(rrq.many, window(4));
      const heard = [await talk.hear()];
      talk.ack(0);
      heard.push(...(await talk.all()));
      talk.ack(4);
      return [...heard, ...(await talk.all())];
    },
    verdict: where(
      agreed("windowsize"),
      is("OACK windowsize=4", "DATA 1 512", "DATA 2 512", "DATA 3 512", "DATA 4 512", "DATA 5 512", "DATA 6 440"),
    ),
  },
  {
    section: "RFC 7440 4",
    rule: "an ACK inside a window begins the next one behind it",
    script: async (talk) => {
      talk.read(rrq.many, window(4));
      const heard = [await talk.hear()];
      talk.ack(0);
      await talk.all();
      talk.ack(2);
      return [...heard, ...(await talk.all())];
    },
    verdict: where(
      agreed("windowsize"),
      is("OACK windowsize=4", "DATA 3 512", "DATA 4 512", "DATA 5 512", "DATA 6 440"),
    ),
  },
  {
    section: "RFC 7440 4",
    rule: "a window whose ACK does not come is sent again",
    script: async (talk) => {
      talk.read(rrq.many, window(2));
      const heard = [await talk.hear()];
      talk.ack(0);
      await talk.hear();
      await talk.hear();
      return [...heard, await talk.hear(), await talk.hear()];
    },
    verdict: where(agreed("windowsize"), is("OACK windowsize=2", "DATA 1 512", "DATA 2 512")),
  },
  {
    section: "RFC 7440 4",
    rule: "a window that is written is acknowledged once, at its end",
    script: async (talk) => {
      talk.write(fresh(), window(3));
      const heard = [await talk.hear()];
      for (const block of [1, 2]) talk.data(block, full);
      heard.push(...(await talk.all(30, 30)).map((packet) => `early ${packet}`));
      talk.data(3, full);
      heard.push(await talk.hear());
      talk.data(4, half);
      return [...heard, await talk.hear()];
    },
    verdict: where(agreed("windowsize"), is("OACK windowsize=3", "ACK 3", "ACK 4")),
  },
  {
    section: "RFC 7440 4",
    rule: "a gap in a window that is written is told by the ACK of the last block before it, once",
    script: async (talk) => {
      const name = fresh();
      talk.write(name, window(4));
      const heard = [await talk.hear()];
      for (const block of [1, 3, 4]) talk.data(block, full);
      heard.push(...(await talk.all(40, 200)));
      for (const block of [2, 3]) talk.data(block, full);
      talk.data(4, half);
      return [...heard, await talk.hearOther("ACK 1"), String((await talk.fetch(name)).length)];
    },
    verdict: where(agreed("windowsize"), is("OACK windowsize=4", "ACK 1", "ACK 4", "1636")),
  },
];

export const rules: readonly Rule[] = [
  ...rfc1350,
  ...rfc1350Writing,
  ...rfc1123,
  ...rfc2347,
  ...rfc2348,
  ...rfc2349,
  ...rfc7440,
];

/** Asks a server about every rule, several at a time. `open` gives a client's port. */
export async function checkRules(
  open: () => Promise<TftpPeer>,
  atOnce = 6,
): Promise<{ rule: Rule; verdict: Verdict; heard: string[] }[]> {
  const results: { rule: Rule; verdict: Verdict; heard: string[] }[] = [];
  const waiting = rules.entries();
  const work = async () => {
    for (const [index, rule] of waiting) {
      const talk = await Talk.begin(open);
      const heard = await rule.script(talk);
      talk.end();
      results[index] = { rule, heard, verdict: rule.verdict(heard) };
    }
  };
  await Promise.all(Array.from({ length: atOnce }, work));
  return results;
}
