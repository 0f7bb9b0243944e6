/** Still pictures as cameras send them: JPEG (ITU-T T.81) and PNG. */

export interface PictureSize {
  readonly width: number;
  readonly height: number;
}

const pngMagic = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];

const startsWith = (bytes: Uint8Array, magic: readonly number[]) => magic.every((byte, index) => bytes[index] === byte);

export const isJpeg = (bytes: Uint8Array): boolean => startsWith(bytes, [0xff, 0xd8, 0xff]);

/** Whether a client can show it; a page that says that there is no picture is none. */
export const isPicture = (bytes: Uint8Array): boolean => isJpeg(bytes) || startsWith(bytes, pngMagic);

/** Width and height in pixels, or undefined where the header does not tell. */
export function pictureSize(bytes: Uint8Array): PictureSize | undefined {
  const size = isJpeg(bytes) ? jpegSize(bytes) : startsWith(bytes, pngMagic) ? pngSize(bytes) : undefined;
  return size !== undefined && size.width > 0 && size.height > 0 ? size : undefined;
}

const uint16 = (bytes: Uint8Array, at: number) => ((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0);

/** IHDR is always the first chunk. */
function pngSize(bytes: Uint8Array): PictureSize | undefined {
  if (bytes.length < 24) return undefined;
  const uint32 = (at: number) => uint16(bytes, at) * 0x10000 + uint16(bytes, at + 2);
  return { width: uint32(16), height: uint32(20) };
}

/** Markers without a length: TEM, RST0 to RST7. */
const isBare = (marker: number) => marker === 0x01 || (marker >= 0xd0 && marker <= 0xd7);
/** SOF0 to SOF15, whose codes also hold DHT, JPG and DAC. */
const isFrame = (marker: number) => marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
/** EOI, SOS: no frame header comes after them. */
const isTooLate = (marker: number) => marker === 0xd9 || marker === 0xda;

/** Goes from segment to segment to the frame header: a thumbnail in an APP segment has a frame header of its own. */
function jpegSize(bytes: Uint8Array): PictureSize | undefined {
  for (let at = 2; at + 4 <= bytes.length;) {
    if (bytes[at] !== 0xff) return undefined;
    const marker = bytes[at + 1] ?? 0;
    if (marker === 0xff)
      at += 1; // fill byte
    else if (isBare(marker)) at += 2;
    else if (isTooLate(marker)) return undefined;
    else if (isFrame(marker)) {
      return at + 9 <= bytes.length ? { height: uint16(bytes, at + 5), width: uint16(bytes, at + 7) } : undefined;
    } else at += 2 + Math.max(2, uint16(bytes, at + 2));
  }
  return undefined;
}
