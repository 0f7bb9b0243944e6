/** FAT16 as boards pretend to have it, and what a host has written into it (Microsoft, FAT32 File System Specification). */

const sectorBytes = 512;
const clusterSectors = 4;
const reservedSectors = 1;
const fats = 2;
const rootEntries = 512;
const rootSectors = (rootEntries * 32) / sectorBytes;
/** Of 16 MiB: more than 4084 clusters make it FAT16. */
const sectors = 32_768;
const fatSectors = Math.ceil((sectors / clusterSectors + 2) / 256);
const firstDataSector = reservedSectors + fats * fatSectors + rootSectors;
const clusterBytes = clusterSectors * sectorBytes;

const rootAt = (reservedSectors + fats * fatSectors) * sectorBytes;
const clusterAt = (cluster: number) => (firstDataSector + (cluster - 2) * clusterSectors) * sectorBytes;

/** @param label up to 11 characters. @param files with names of 8 and 3 characters */
export function fatImage(label: string, files: Readonly<Record<string, string>>): Buffer {
  const image = Buffer.alloc(sectors * sectorBytes);
  image.set([0xeb, 0x3c, 0x90]);
  image.write("MSDOS5.0", 3, "latin1");
  image.writeUInt16LE(sectorBytes, 11);
  image[13] = clusterSectors;
  image.writeUInt16LE(reservedSectors, 14);
  image[16] = fats;
  image.writeUInt16LE(rootEntries, 17);
  image.writeUInt16LE(sectors, 19);
  image[21] = 0xf8;
  image.writeUInt16LE(fatSectors, 22);
  image[38] = 0x29;
  image.write("NO NAME    FAT16   ", 43, "latin1");
  image.set([0x55, 0xaa], 510);
  let entry = rootAt;
  let cluster = 2;
  const next = (number: number, value: number) => {
    for (let fat = 0; fat < fats; fat += 1) {
      image.writeUInt16LE(value, (reservedSectors + fat * fatSectors) * sectorBytes + number * 2);
    }
  };
  next(0, 0xfff8);
  next(1, 0xffff);
  image.write(`${label.padEnd(11)}\x08`, entry, "latin1");
  for (const [name, text] of Object.entries(files)) {
    entry += 32;
    const [stem = "", extension = ""] = name.split(".");
    image.write(`${stem.padEnd(8)}${extension.padEnd(3)}\x20`, entry, "latin1");
    image.writeUInt16LE(cluster, entry + 26);
    image.writeUInt32LE(text.length, entry + 28);
    image.write(text, clusterAt(cluster), "latin1");
    const last = cluster + Math.max(0, Math.ceil(text.length / clusterBytes) - 1);
    for (; cluster < last; cluster += 1) next(cluster, cluster + 1);
    next(cluster, 0xffff);
    cluster += 1;
  }
  return image;
}

/** Files in the root directory, by their short names. */
export function fatFiles(image: Buffer): Map<string, Buffer> {
  const files = new Map<string, Buffer>();
  for (let entry = rootAt; entry < rootAt + rootEntries * 32 && image[entry] !== 0; entry += 32) {
    // Volume names and parts of long names have the bit 8, directories 16.
    if (image[entry] === 0xe5 || ((image[entry + 11] ?? 0) & 0x18) !== 0) continue;
    const stem = image.toString("latin1", entry, entry + 8).trimEnd();
    const extension = image.toString("latin1", entry + 8, entry + 11).trimEnd();
    const bytes = image.readUInt32LE(entry + 28);
    const pieces: Buffer[] = [];
    for (let cluster = image.readUInt16LE(entry + 26), left = bytes; left > 0 && cluster >= 2 && cluster < 0xfff8;) {
      pieces.push(image.subarray(clusterAt(cluster), clusterAt(cluster) + Math.min(left, clusterBytes)));
      left -= clusterBytes;
      cluster = image.readUInt16LE(reservedSectors * sectorBytes + cluster * 2);
    }
    files.set(`${stem}.${extension}`, Buffer.concat(pieces));
  }
  return files;
}
