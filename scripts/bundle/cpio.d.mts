export interface CpioEntry {
  readonly path: string;
  readonly content?: string | Uint8Array;
  readonly link?: string;
  readonly mode?: number;
}
/** An archive as initramfs are; an entry without content and link is a folder. */
export function cpio(entries: readonly CpioEntry[]): Buffer;
