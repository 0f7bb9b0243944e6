/**
 * CRC-32 goes on over zeros by a multiplication with a power of x modulo its polynomial: holes of gigabytes cost nothing.
 * As zlib's crc32_combine.
 * @param crc of what is before them
 */
export function crc32OverZeros(crc: number, bytes: number): number {
  // The register is inverted before and after, which zeros alone must not be.
  let register = ~crc >>> 0;
  let power = xToThe8;
  for (let rest = bytes; rest > 0; rest = Math.floor(rest / 2)) {
    if (rest % 2 === 1) register = multiply(register, power);
    power = multiply(power, power);
  }
  return ~register >>> 0;
}

/** Of CRC-32 (IEEE 802.3), bits reversed: the highest bit is x^0. */
const polynomial = 0xedb88320;
const xToThe8 = 0x00800000;

function multiply(left: number, right: number): number {
  let product = 0;
  let factor = right;
  for (let bit = 31; bit >= 0; bit -= 1) {
    if ((left >>> bit) & 1) product ^= factor;
    factor = factor & 1 ? (factor >>> 1) ^ polynomial : factor >>> 1;
  }
  return product >>> 0;
}
