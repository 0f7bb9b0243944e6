/** A line that grows beyond this is cut there, and what follows is another one. */
export const longestLineBytes = 64 * 1024;

export interface Lines {
  push(chunk: Buffer): void;
  /** What came after the last line end. */
  end(): void;
}

/** Makes lines of what a terminal shows: without the white space at their end, and without blank ones. */
export function splitLines(emit: (line: string) => void): Lines {
  let rest: Buffer = Buffer.alloc(0);
  const emitLine = (bytes: Buffer) => {
    const line = bytes.toString("utf8").trimEnd();
    if (line !== "") emit(line);
  };
  return {
    push(chunk) {
      let bytes = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
      for (;;) {
        const end = bytes.indexOf(0x0a);
        const length = end === -1 ? bytes.length : end;
        if (length > longestLineBytes) {
          const cut = characterStart(bytes, longestLineBytes);
          emitLine(bytes.subarray(0, cut));
          bytes = bytes.subarray(cut);
        } else if (end !== -1) {
          emitLine(bytes.subarray(0, end));
          bytes = bytes.subarray(end + 1);
        } else {
          // A copy, which does not keep the whole chunk in memory.
          rest = Buffer.from(bytes);
          return;
        }
      }
    },
    end() {
      emitLine(rest);
      rest = Buffer.alloc(0);
    },
  };
}

/** Where the UTF-8 character begins that `offset` lies in; `offset` itself where it lies in none. */
function characterStart(bytes: Buffer, offset: number): number {
  const isContinuation = (at: number) => ((bytes[at] ?? 0) & 0xc0) === 0x80;
  let start = offset;
  while (isContinuation(start) && offset - start < 3) start -= 1;
  return isContinuation(start) ? offset : start;
}
