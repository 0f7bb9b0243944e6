/** Bytes of an image and where they belong. Pieces come in ascending order; what is between them are holes. */
export interface ImagePiece {
  readonly at: number;
  /** Valid until the next piece is asked for. */
  readonly bytes: Buffer;
}
