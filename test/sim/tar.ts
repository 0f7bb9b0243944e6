export interface SimulatedEntry {
  name: string;
  /** `0` file, `5` directory, `1` hard link, `2` symbolic link, … */
  type?: string;
  content?: string;
  /** So many zeros as content. */
  size?: number;
  linkName?: string;
  /** Records of a pax header before the entry. */
  pax?: Record<string, string>;
  /** GNU tar's long name before the entry. */
  longName?: string;
}

/** A tar archive with any entries, also those that no honest archive has. */
export function tarOf(entries: readonly SimulatedEntry[]): Buffer {
  return Buffer.concat([...entries.flatMap(blocksOf), Buffer.alloc(1024)]);
}

function blocksOf({ name, type = "0", content = "", size, linkName = "", pax, longName }: SimulatedEntry): Buffer[] {
  const body = size === undefined ? Buffer.from(content) : Buffer.alloc(size);
  const before = [
    ...(pax === undefined ? [] : blocksOf({ name: "pax", type: "x", content: paxRecords(pax) })),
    ...(longName === undefined ? [] : blocksOf({ name: "././@LongLink", type: "L", content: `${longName}\0` })),
  ];
  const header = Buffer.alloc(512);
  header.write(name, 0, 100);
  header.write("0000644\0", 100);
  header.write(`${body.length.toString(8).padStart(11, "0")}\0`, 124);
  header.write("        ", 148);
  header.write(type, 156);
  header.write(linkName, 157, 100);
  header.write("ustar\0", 257);
  header.write("00", 263);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
  return [...before, header, body, Buffer.alloc((512 - (body.length % 512)) % 512)];
}

function paxRecords(records: Record<string, string>): string {
  return Object.entries(records)
    .map(([key, value]) => {
      const rest = ` ${key}=${value}\n`;
      let length = Buffer.byteLength(rest) + 1;
      while (String(length).length + Buffer.byteLength(rest) !== length) length += 1;
      return `${length}${rest}`;
    })
    .join("");
}
