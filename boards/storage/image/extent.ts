import type { ByteSource } from "../../../agent/stream/byte-source.ts";

/**
 * A part of an image, and where it belongs. Extents come in ascending order; what is between them are holes. Each is read to its end before the
 * next one is asked for.
 */
export interface Extent extends ByteSource {
  readonly at: number;
}
