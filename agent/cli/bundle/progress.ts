import { formatBytes } from "../../../bundles/cache/bytes.ts";
import type { CopyProgress } from "../../../bundles/oci/copy.ts";

const redrawMs = 250;

/** One line on a terminal that tells how far a transfer is; nothing where nobody looks. */
export class ProgressLine {
  readonly #terminal = process.stderr;
  readonly #startedMs = performance.now();
  #drawnMs = 0;

  readonly tell = ({ doneBytes, totalBytes }: CopyProgress): void => {
    const nowMs = performance.now();
    if (!this.#terminal.isTTY || nowMs - this.#drawnMs < redrawMs) return;
    this.#drawnMs = nowMs;
    const seconds = (nowMs - this.#startedMs) / 1000;
    const percent = totalBytes === 0 ? 100 : Math.floor((100 * doneBytes) / totalBytes);
    const rate = `${(doneBytes / seconds / 1e6).toFixed(1)} MB/s`;
    this.#terminal.write(`\r\x1b[K${percent} % of ${formatBytes(totalBytes)}, ${rate}`);
  };

  close(): void {
    if (this.#drawnMs > 0) this.#terminal.write("\r\x1b[K");
  }
}
