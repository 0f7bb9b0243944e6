import {
  Composer,
  isAlias,
  isCollection,
  isMap,
  isScalar,
  LineCounter,
  Parser,
  visit,
  type CST,
  type Node,
  type ParsedNode,
  type Scalar,
} from "yaml";
import type { ConfigProblem } from "../driver/entry.ts";
import { plainScalars } from "./yaml-scalars.ts";

/** A place in a file, both counted from 1. */
export interface Position {
  readonly line: number;
  readonly column: number;
}

/** A problem of a file and where it stands. */
export interface PlacedProblem extends ConfigProblem {
  readonly position: Position;
}

/** A YAML file as plain values that still know where they were written. */
export interface ConfigDocument {
  readonly value: unknown;
  /** Where it is written: a scalar itself, else its key, else the nearest thing above that exists. */
  position(problem: Pick<ConfigProblem, "path" | "aboutKey">): Position;
}

/** An exporter configuration is a few kilobytes; these keep a hostile or mistaken file from eating the host. */
const maxFileCharacters = 1024 * 1024;
const maxDepth = 64;
const maxAliasedNodes = 10_000;

/** Reads one YAML document without running into what YAML can do to its reader. */
export function parseConfigDocument(text: string): ConfigDocument | { readonly problems: PlacedProblem[] } {
  const start = { line: 1, column: 1 };
  const refuse = (message: string, position: Position = start) => ({ problems: [{ path: [], message, position }] });
  if (text.length > maxFileCharacters) return refuse(`is larger than ${maxFileCharacters} characters`);
  const lines = new LineCounter();
  const placeOf = (offset: number): Position => {
    const { line, col } = lines.linePos(offset);
    return { line: Math.max(line, 1), column: Math.max(col, 1) };
  };
  const tokens = [...new Parser(lines.addNewLine).parse(text)];
  // The composer recurses: what is too deep for it must not get there.
  if (isTooDeep(tokens)) return refuse(`is nested deeper than ${maxDepth} levels`);
  const composer = new Composer({
    version: "1.1",
    schema: "failsafe",
    customTags: plainScalars,
    merge: true,
    lineCounter: lines,
  });
  const [document, further] = composer.compose(tokens, true, text.length);
  if (document === undefined) return refuse("is empty");
  if (further !== undefined) {
    return refuse("only one document per file is allowed", placeOf(further.range[0]));
  }
  if (document.errors.length > 0 || document.warnings.length > 0) {
    return {
      problems: [...document.errors, ...document.warnings].map((error) => ({
        path: [],
        message: error.code === "DUPLICATE_KEY" ? "this key is given twice; keys must be unique" : error.message,
        position: placeOf(error.pos[0]),
      })),
    };
  }
  const root: Node | null = document.contents;
  if (root === null) return refuse("is empty");
  const excess = findExcess(root, (alias) => (isAlias(alias) ? alias.resolve(document) : undefined));
  if (excess !== undefined) return refuse(excess.message, placeOf(excess.node.range?.[0] ?? 0));
  visit(document, { Pair: (_, { key }) => void (isScalar(key) && keepAsWritten(key)) });
  return {
    value: document.toJS({ maxAliasCount: -1 }),
    position: (problem) => placeOf(offsetOf(root, problem, (node) => (isAlias(node) ? node.resolve(document) : node))),
  };
}

/** The key `on:` is a method's name and `1:` a port's, not true and a number. */
function keepAsWritten(key: Scalar): void {
  if (typeof key.value !== "symbol" && typeof key.value !== "string") key.value = key.source ?? String(key.value);
}

/** Measures the tree of tokens without recursion. Each level of values is two or three levels of tokens. */
function isTooDeep(tokens: readonly CST.Token[]): boolean {
  let level: unknown[] = [...tokens];
  for (let depth = 0; level.length > 0; depth += 1) {
    if (depth > 3 * maxDepth) return true;
    level = level.flatMap((token) => {
      const { value, key, items } = token as { value?: unknown; key?: unknown; items?: unknown[] };
      return [...(items ?? []), value, key].filter((inside) => typeof inside === "object" && inside !== null);
    });
  }
  return false;
}

/** Walks the document as a reader will, aliases followed, until it is through or too much. */
function findExcess(
  root: Node,
  resolve: (node: Node) => Node | undefined,
): { node: Node; message: string } | undefined {
  let nodes = 0;
  const walk = (node: unknown, depth: number, aliased: boolean): { node: Node; message: string } | undefined => {
    if (depth > maxDepth) {
      return { node: node as Node, message: `is nested deeper than ${maxDepth} levels, or contains itself` };
    }
    if (isAlias(node)) {
      const target = resolve(node);
      if (target === undefined) return { node, message: `unresolved alias *${node.source}` };
      return walk(target, depth + 1, true);
    }
    if (aliased) nodes += 1;
    if (nodes > maxAliasedNodes) return { node: node as Node, message: "repeats too much by aliases" };
    if (!isCollection(node)) return undefined;
    for (const item of node.items) {
      const key = isMap(node) ? (item as { key: unknown }).key : undefined;
      if (isCollection(key)) return { node: key, message: "a key must be a word, not a list or a map" };
      if (isScalar(key) && key.value === "__proto__") return { node: key, message: "__proto__ cannot be a key" };
      const inside = isMap(node) ? (item as { value: unknown }).value : item;
      const excess = walk(inside, depth + 1, aliased);
      if (excess !== undefined) return excess;
    }
    return undefined;
  };
  return walk(root, 0, false);
}

/** `before_lease`, `beforeLease` and `exec_`, `exec` are the same key to those who look for it. */
const plain = (key: string) => key.replaceAll("_", "").toLowerCase();

function offsetOf(
  root: Node,
  { path, aboutKey = false }: Pick<ConfigProblem, "path" | "aboutKey">,
  follow: (node: unknown) => unknown,
): number {
  let here: unknown = root;
  let offset = root.range?.[0] ?? 0;
  for (const [index, segment] of path.entries()) {
    here = follow(here);
    if (!isCollection(here)) break;
    if (isMap(here)) {
      const pairs = here.items as { key: unknown; value: unknown }[];
      const named = (pair: { key: unknown }, same: (a: string, b: string) => boolean) =>
        isScalar(pair.key) && same(String(pair.key.value), String(segment));
      const pair =
        pairs.find((candidate) => named(candidate, (a, b) => a === b)) ??
        pairs.find((candidate) => named(candidate, (a, b) => plain(a) === plain(b)));
      if (pair === undefined) break;
      const key = pair.key as ParsedNode;
      // An empty value has no place of its own, a collection begins on another line than its name.
      const valueHasPlace = isScalar(pair.value) && pair.value.source !== "";
      const atValue = valueHasPlace && !(aboutKey && index === path.length - 1);
      offset = (atValue ? (pair.value as ParsedNode) : key).range[0];
      here = pair.value;
    } else {
      here = here.items[Number(segment)];
      if (here === undefined) break;
      offset = (here as ParsedNode).range?.[0] ?? offset;
    }
  }
  return offset;
}
