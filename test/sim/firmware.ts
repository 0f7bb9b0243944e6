/** Firmware files for boards that do not exist. */

export const familyRp2040 = 0xe48bff56;

/** UF2 with 256 bytes in a block, as the boot ROM of the RP2040 wants it. */
export function uf2(
  content: Uint8Array,
  { family = familyRp2040, address = 0x10000000 }: { family?: number; address?: number } = {},
): Buffer {
  const blocks = Math.ceil(content.length / 256);
  return Buffer.concat(
    Array.from({ length: blocks }, (_, index) => {
      const block = Buffer.alloc(512);
      const flags = 0x2000;
      [0x0a324655, 0x9e5d5157, flags, address + index * 256, 256, index, blocks, family].forEach((word, at) =>
        block.writeUInt32LE(word, at * 4),
      );
      block.set(content.subarray(index * 256, (index + 1) * 256), 32);
      block.writeUInt32LE(0x0ab16f30, 508);
      return block;
    }),
  );
}

/** What UF2 blocks hold, in the order of their addresses. */
export function uf2Content(file: Uint8Array): Buffer {
  const blocks: Buffer[] = [];
  for (let at = 0; at + 512 <= file.length; at += 512) blocks.push(Buffer.from(file.subarray(at, at + 512)));
  blocks.sort((a, b) => a.readUInt32LE(12) - b.readUInt32LE(12));
  return Buffer.concat(blocks.map((block) => block.subarray(32, 32 + block.readUInt32LE(16))));
}

/** Intel HEX with 16 bytes in a record. */
export function intelHex(content: Uint8Array): string {
  const record = (type: number, address: number, data: Uint8Array) => {
    const bytes = [data.length, address >> 8, address & 0xff, type, ...data];
    const checksum = -bytes.reduce((sum, byte) => sum + byte, 0) & 0xff;
    return `:${Buffer.from([...bytes, checksum])
      .toString("hex")
      .toUpperCase()}\r\n`;
  };
  let text = record(4, 0, Buffer.from([0x08, 0x00]));
  for (let at = 0; at < content.length; at += 16) text += record(0, at, content.subarray(at, at + 16));
  return text + record(1, 0, Buffer.alloc(0));
}
