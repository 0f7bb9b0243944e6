/** UF2 (github.com/microsoft/uf2, README): a file of blocks that stand for themselves, so that a boot loader may get them in any order. */

export const blockBytes = 512;
const magics = { first: 0x0a324655, second: 0x9e5d5157, last: 0x0ab16f30 } as const;
const flags = { notMainFlash: 0x0000_0001, fileContainer: 0x0000_1000, hasFamily: 0x0000_2000 } as const;
const largestPayload = 476;

/** Families of the boot ROMs (pico-sdk, boot/uf2.h). */
const families: ReadonlyMap<number, string> = new Map([
  [0xe48bff56, "RP2040"],
  [0xe48bff57, "absolute"],
  [0xe48bff58, "data"],
  [0xe48bff59, "RP2350 (Arm, secure)"],
  [0xe48bff5a, "RP2350 (RISC-V)"],
  [0xe48bff5b, "RP2350 (Arm, non-secure)"],
]);
/** A block of this family comes before the others to work around an erratum, and says more blocks than there are. */
const absoluteFamily = 0xe48bff57;

/** What each board takes, by the first letters of its `Board-ID`. */
const boards: readonly (readonly [id: RegExp, name: string, families: ReadonlySet<number>])[] = [
  [/^RPI-RP2$/i, "RP2040", new Set([0xe48bff56])],
  [/^RP2350$/i, "RP2350", new Set([absoluteFamily, 0xe48bff58, 0xe48bff59, 0xe48bff5a, 0xe48bff5b])],
];

interface Family {
  /** As its blocks say. */
  readonly blocks: number;
  readonly seen: Set<number>;
}

/**
 * Checks a UF2 file as it comes, in whole blocks.
 * @throws Error naming the block
 */
export class Uf2Check {
  readonly #families = new Map<number | undefined, Family>();
  #index = 0;

  /** @param bytes whole blocks */
  add(bytes: Uint8Array): void {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    for (let at = 0; at + blockBytes <= bytes.length; at += blockBytes) this.#block(view, at);
  }

  /** Families of which all blocks are there; undefined: blocks that name none. */
  end(): readonly (number | undefined)[] {
    if (this.#families.size === 0) throw new Error("it has no blocks for the flash");
    for (const [family, { blocks, seen }] of this.#families) {
      if (family === absoluteFamily || seen.size === blocks) continue;
      throw new Error(`${seen.size} of the ${blocks} blocks for ${familyName(family)} are there: it was cut off`);
    }
    return [...this.#families.keys()];
  }

  #block(view: DataView, at: number): void {
    const word = (offset: number) => view.getUint32(at + offset, true);
    const error = (problem: string) => new Error(`block ${this.#index} ${problem}`);
    if (word(0) !== magics.first || word(4) !== magics.second || word(508) !== magics.last) {
      throw error("has no magic numbers of UF2");
    }
    const [flag, payload, number, blocks] = [word(8), word(16), word(20), word(24)];
    if ((flag & (flags.notMainFlash | flags.fileContainer)) === 0) {
      if (payload === 0 || payload > largestPayload) throw error(`has ${payload} bytes`);
      if (number >= blocks) throw error(`says that it is number ${number} of ${blocks}`);
      const family = (flag & flags.hasFamily) === 0 ? undefined : word(28);
      const known = this.#families.get(family) ?? { blocks, seen: new Set() };
      this.#families.set(family, known);
      if (known.blocks !== blocks) throw error(`says ${blocks} blocks, and others ${known.blocks}`);
      if (known.seen.has(number)) throw error(`has the number ${number}, which came before`);
      known.seen.add(number);
    }
    this.#index += 1;
  }
}

function familyName(family: number | undefined): string {
  if (family === undefined) return "no family";
  return families.get(family) ?? `family 0x${family.toString(16).padStart(8, "0")}`;
}

/**
 * Why a board does not take a file of these families, which it would ignore in silence.
 * @param boardId of INFO_UF2.TXT
 * @returns undefined if it takes one of them, or is no board that is known here
 */
export function familyProblem(boardId: string | undefined, found: readonly (number | undefined)[]): string | undefined {
  const board = boards.find(([id]) => boardId !== undefined && id.test(boardId));
  if (board === undefined) return undefined;
  const [, name, taken] = board;
  if (found.some((family) => family !== undefined && taken.has(family))) return undefined;
  return `it is for ${found.map(familyName).join(" and ")}, and the board is an ${name}`;
}
