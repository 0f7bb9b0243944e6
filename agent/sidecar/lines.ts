import type { Readable } from "node:stream";
import { StringDecoder } from "node:string_decoder";

/**
 * Cuts what a foreign process writes into lines.
 * @param longest characters of a line. @param tooLong called for a longer one; without it, the line is cut in pieces
 */
export function isolatedLines(
  source: Readable,
  longest: number,
  take: (line: string) => void,
  tooLong?: () => void,
): void {
  const decoder = new StringDecoder("utf8");
  let rest: string[] = [];
  let length = 0;
  const flush = (last: string) => {
    const line = [...rest, last].join("");
    rest = [];
    length = 0;
    take(line);
  };
  source.on("data", (chunk: Buffer) => {
    const [first = "", ...more] = decoder.write(chunk).split("\n");
    let open = first;
    for (const next of more) {
      flush(open);
      open = next;
    }
    if (open !== "") rest.push(open);
    length += open.length;
    if (length <= longest) return;
    if (tooLong === undefined) flush("");
    else {
      source.destroy();
      tooLong();
    }
  });
  source.once("end", () => {
    if (length > 0) flush("");
  });
}
