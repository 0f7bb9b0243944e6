import { access } from "node:fs/promises";
import { extname } from "node:path";

/** The block map that lies beside an image, as bmaptool looks for it: `a.wic.gz.bmap`, `a.wic.bmap`, `a.bmap`. */
export async function bmapBeside(imagePath: string): Promise<string | undefined> {
  for (let stem = imagePath; ; stem = stem.slice(0, -extname(stem).length)) {
    const found = await access(`${stem}.bmap`).then(
      () => true,
      () => false,
    );
    if (found) return `${stem}.bmap`;
    if (extname(stem) === "") return undefined;
  }
}
