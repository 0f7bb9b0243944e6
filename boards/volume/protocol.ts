/** What a mount table, a volume's text files and a FAT file system say. */

export interface Mount {
  /** `/dev/sda1`, or the name of something that is no device. */
  readonly source: string;
  readonly folder: string;
}

/** A line of /proc/mounts each (fstab(5)): spaces, tabs and backslashes in names are octal numbers. */
export function parseMounts(text: string): Mount[] {
  return text.split("\n").flatMap((line) => {
    const [source, folder, type] = line.split(/[ \t]+/);
    if (source === undefined || folder === undefined || type === undefined) return [];
    return [{ source: unescaped(source), folder: unescaped(folder) }];
  });
}

/** The octal numbers are bytes of UTF-8. */
function unescaped(name: string): string {
  if (!name.includes("\\")) return name;
  try {
    return decodeURIComponent(name.replaceAll("%", "%25").replace(/\\([0-7]{3})/g, percentEncoded));
  } catch {
    return name; // nobody's UTF-8
  }
}

const percentEncoded = (_: string, octal: string) =>
  `%${(Number.parseInt(octal, 8) & 0xff).toString(16).padStart(2, "0")}`;

/** The `Key: value` lines of DETAILS.TXT and INFO_UF2.TXT. */
export function keyValues(text: string): Record<string, string> {
  const lines = text.split(/\r\n|\r|\n/).flatMap((line) => {
    const colon = line.indexOf(":");
    return colon === -1 ? [] : [[line.slice(0, colon).trim(), line.slice(colon + 1).trim()] as const];
  });
  return Object.fromEntries(lines);
}

/** Why this is no name of a file on a FAT volume; undefined if it is one. What leads out of the volume is none. */
export function nameProblem(name: string): string | undefined {
  if (name.includes("/") || name.includes("\\")) return "it must be a file name, not a path";
  if (name === "" || name === "." || name === "..") return "it is no file name";
  if (name.length > 255) return "it is longer than 255 characters";
  // eslint-disable-next-line no-control-regex -- these are the ones that FAT forbids
  if (/[\u0000-\u001f\u007f<>:"|?*]/.test(name)) return "it has characters that FAT does not allow";
  return undefined;
}

/** Where the root directory of a FAT12 or FAT16 file system lies, in bytes; undefined for anything else. */
export function fatRoot(bootSector: Uint8Array): { readonly offset: number; readonly bytes: number } | undefined {
  if (bootSector.length < 512 || bootSector[510] !== 0x55 || bootSector[511] !== 0xaa) return undefined;
  const u16 = (at: number) => (bootSector[at] ?? 0) | ((bootSector[at + 1] ?? 0) << 8);
  const [sectorBytes, reserved, fats, entries, fatSectors] = [u16(11), u16(14), bootSector[16] ?? 0, u16(17), u16(22)];
  if (![512, 1024, 2048, 4096].includes(sectorBytes) || reserved === 0 || fats === 0 || entries === 0) return undefined;
  return { offset: (reserved + fats * fatSectors) * sectorBytes, bytes: entries * 32 };
}

/** The volume's name, in its root directory; undefined if it has none. */
export function fatLabel(root: Uint8Array): string | undefined {
  for (let at = 0; at + 32 <= root.length && root[at] !== 0; at += 32) {
    const attributes = root[at + 11] ?? 0;
    // A part of a long name has all of the low four bits.
    if (root[at] === 0xe5 || (attributes & 0x0f) === 0x0f || (attributes & 0x08) === 0) continue;
    return String.fromCharCode(...root.subarray(at, at + 11)).trimEnd();
  }
  return undefined;
}
