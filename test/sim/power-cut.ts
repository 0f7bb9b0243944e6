import assert from "node:assert/strict";
import fs, { mkdirSync, readFileSync, rmSync, writeFileSync, type PathLike } from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import { basename, dirname, join, relative } from "node:path";
import type { TestContext } from "node:test";

type Inode = number;

/** What was asked of the file system. */
type Operation =
  /** Names that change together; a name without inode goes. */
  | { kind: "names"; changes: { directory: Inode; name: string; inode: Inode | undefined }[] }
  | { kind: "write"; inode: Inode; content: Buffer }
  | { kind: "sync"; inode: Inode; content?: Buffer };

export interface Recording {
  readonly length: number;
  /**
   * Lays out what a disk may hold if the power goes after `cut` operations: names whose directory was not synced are
   * there or not, content that was not synced is any part of what was written.
   * @param random from 0 to 1
   */
  restore: (directory: string, cut: number, random: () => number) => void;
}

/** Records what happens below a directory from now on until the test ends. */
export function recordDisk(t: TestContext, root: string): Recording {
  const operations: Operation[] = [];
  const rootInode = 0;
  let lastInode = rootInode;
  /** The names as the running system sees them; paths are relative to the root. */
  const live = new Map<string, Inode>([["", rootInode]]);
  const inside = (path: PathLike) => !relative(root, String(path)).startsWith("..");
  const place = (path: string) => {
    const name = relative(root, path);
    const directory = live.get(dirname(name) === "." ? "" : dirname(name));
    assert.ok(directory !== undefined, `nobody made the directory of ${name}`);
    return { path: name, directory, name: basename(name) };
  };
  const below = (path: string) => [...live.keys()].filter((one) => one === path || one.startsWith(`${path}/`));
  const change = (...changes: { at: string; inode: Inode | undefined }[]) => {
    const names = changes.map(({ at, inode }) => ({ ...place(at), inode }));
    operations.push({
      kind: "names",
      changes: names.map(({ directory, name, inode }) => ({ directory, name, inode })),
    });
    for (const { path, inode } of names) {
      if (inode !== undefined) live.set(path, inode);
    }
  };
  const make = (path: string) => {
    change({ at: path, inode: (lastInode += 1) });
    return lastInode;
  };
  const files = new Set<Inode>();
  const create = (path: string) => {
    files.add(make(path));
    return lastInode;
  };

  const { promises, createWriteStream } = fs;
  const original = { ...promises };
  Object.assign(promises, {
    mkdir: async (path: string, options?: fs.MakeDirectoryOptions) => {
      const first = await original.mkdir(path, options);
      if (!inside(path) || (first === undefined && options?.recursive === true)) return first;
      const made = [];
      for (let here = path; here.length >= (first ?? path).length; here = dirname(here)) made.unshift(here);
      made.forEach(make);
      return first;
    },
    open: async (path: string, flags?: string, mode?: number) => {
      const handle = await original.open(path, flags, mode);
      if (!inside(path)) return handle;
      const isWritten = flags === "wx" || flags === "a+";
      const existing = live.get(relative(root, path));
      const inode = existing ?? (isWritten ? create(path) : -1);
      const [write, append] = [handle.writeFile.bind(handle), handle.appendFile.bind(handle)];
      const sync = handle.sync.bind(handle);
      const recordWrite = async () => {
        operations.push({ kind: "write", inode, content: await original.readFile(path) });
      };
      handle.writeFile = async (data: never) => {
        await write(data);
        await recordWrite();
      };
      handle.appendFile = async (data: never) => {
        await append(data);
        await recordWrite();
      };
      handle.sync = async () => {
        await sync();
        operations.push({ kind: "sync", inode, ...(isWritten && { content: await original.readFile(path) }) });
      };
      return handle;
    },
    rename: async (from: string, to: string) => {
      await original.rename(from, to);
      if (!inside(to)) return;
      const [source, target] = [relative(root, from), relative(root, to)];
      change({ at: from, inode: undefined }, { at: to, inode: live.get(source) });
      for (const path of below(source)) {
        live.set(target + path.slice(source.length), live.get(path) ?? -1);
        live.delete(path);
      }
    },
    link: async (from: string, to: string) => {
      await original.link(from, to);
      if (inside(to)) change({ at: to, inode: live.get(relative(root, from)) });
    },
    rm: async (path: string, options?: fs.RmOptions) => {
      await original.rm(path, options);
      if (!inside(path) || !live.has(relative(root, path))) return;
      change({ at: path, inode: undefined });
      for (const gone of below(relative(root, path))) live.delete(gone);
    },
  });
  Object.assign(fs, {
    createWriteStream: (path: string, options: { flush?: boolean }) => {
      const stream = createWriteStream(path, options);
      if (!inside(path)) return stream;
      let inode: Inode | undefined;
      stream.once("open", () => (inode = live.get(relative(root, path)) ?? create(path)));
      stream.once("close", () => {
        if (inode === undefined) return;
        const content = readFileSync(path);
        operations.push({ kind: "write", inode, content });
        if (options.flush === true) operations.push({ kind: "sync", inode, content });
      });
      return stream;
    },
  });
  syncBuiltinESMExports();
  t.after(() => {
    Object.assign(promises, original);
    Object.assign(fs, { createWriteStream });
    syncBuiltinESMExports();
  });

  return {
    get length() {
      return operations.length;
    },
    restore: (directory, cut, random) => {
      const done = operations.slice(0, cut);
      const names = new Map<Inode, Map<string, Inode>>();
      const content = new Map<Inode, Buffer>();
      for (const [index, operation] of done.entries()) {
        if (operation.kind === "sync") {
          if (operation.content !== undefined) content.set(operation.inode, operation.content);
        } else if (operation.kind === "write") {
          content.set(operation.inode, partOf(operation.content, random));
        } else if (isCertain(operation, done.slice(index)) || random() < 0.5) {
          for (const { directory, name, inode } of operation.changes) {
            const entries = names.get(directory) ?? new Map<string, Inode>();
            names.set(directory, entries);
            if (inode === undefined) entries.delete(name);
            else entries.set(name, inode);
          }
        }
      }
      const layOut = (inode: Inode, path: string): void => {
        mkdirSync(path);
        for (const [name, child] of names.get(inode) ?? []) {
          if (files.has(child)) writeFileSync(join(path, name), content.get(child) ?? "");
          else layOut(child, join(path, name));
        }
      };
      rmSync(directory, { recursive: true, force: true });
      layOut(rootInode, directory);
    },
  };
}

/** A change of names is safe once a directory it touches was synced after it. */
function isCertain({ changes }: Operation & { kind: "names" }, later: readonly Operation[]): boolean {
  return changes.some(({ directory }) => later.some((next) => next.kind === "sync" && next.inode === directory));
}

/** Content that was not synced: a part of it, and perhaps zeros in place of the rest. */
function partOf(content: Buffer, random: () => number): Buffer {
  const kept = content.subarray(0, Math.floor(random() * (content.length + 1)));
  return random() < 0.5 ? kept : Buffer.concat([kept, Buffer.alloc(content.length - kept.length)]);
}
