/** RFC 764's line ends, as TFTP's netascii wants them: LF is CR LF on the wire, and a bare CR is CR NUL. */

const [nul, lf, cr] = [0, 10, 13];

export function toNetascii(bytes: Uint8Array): Buffer {
  let extra = 0;
  for (const byte of bytes) if (byte === lf || byte === cr) extra += 1;
  const translated = Buffer.allocUnsafe(bytes.length + extra);
  let at = 0;
  for (const byte of bytes) {
    if (byte === lf) translated[at++] = cr;
    translated[at++] = byte;
    if (byte === cr) translated[at++] = nul;
  }
  return translated;
}

/** The way back, for bytes that come in pieces. CR followed by neither LF nor NUL is no netascii and stays as it is. */
export class NetasciiDecoder {
  #afterCr = false;

  decode(bytes: Uint8Array): Buffer {
    const decoded = Buffer.allocUnsafe(bytes.length + 1);
    let at = 0;
    for (const byte of bytes) {
      if (this.#afterCr) {
        this.#afterCr = false;
        if (byte === lf || byte === nul) {
          decoded[at++] = byte === lf ? lf : cr;
          continue;
        }
        decoded[at++] = cr;
      }
      if (byte === cr) this.#afterCr = true;
      else decoded[at++] = byte;
    }
    return decoded.subarray(0, at);
  }

  /** What is left when nothing comes any more. */
  end(): Buffer {
    return Buffer.from(this.#afterCr ? [cr] : []);
  }
}
