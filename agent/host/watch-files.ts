import { watch, type FSWatcher } from "node:fs";
import { readdir, stat } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";

export interface WatchFilesOptions {
  /** Files that may be missing for now, or be symbolic links. */
  readonly files: readonly string[];
  /** Also every `*.yaml` in these directories, which may be missing too. */
  readonly directories?: readonly string[];
  /** Called with the path of a file that has come, changed or gone. */
  readonly changed: (path: string) => void;
  /** How long nothing must happen before a change is told: editors write in several steps. */
  readonly quietMs?: number;
  /** How often to look where the system tells nothing: network file systems, links, too many watches. */
  readonly pollMs?: number;
}

export interface FileWatcher {
  /** Settles when the files have been looked at once: what changes from now on is told. */
  readonly ready: Promise<void>;
  close(): void;
}

/** Somebody who writes without a pause must not hide the change for ever. */
const mostQuietPeriods = 10;

/**
 * Watches files by what `stat` says. The system's notes about their directories only make it look sooner, so that
 * nothing depends on them: renames, links and directories that come and go are all found by the next poll.
 */
export function watchFiles(options: WatchFilesOptions): FileWatcher {
  const { changed, quietMs = 500, pollMs = 5_000 } = options;
  const files = options.files.map((file) => resolve(file));
  const directories = (options.directories ?? []).map((directory) => resolve(directory));
  const watched = new Set([...files.map((file) => dirname(file)), ...directories]);
  const watchers = new Map<string, { readonly watcher: FSWatcher; readonly inode: bigint }>();
  /** What each file was like when it was last told; absent: it was not there. */
  const known = new Map<string, string>();
  /** Since when a file is missing. One that is replaced by hand may be gone for a moment. */
  const missingSince = new Map<string, number>();
  let quiet: NodeJS.Timeout | undefined;
  let restlessSince: number | undefined;
  let looking: Promise<void> | undefined;
  let lookAgain = false;
  let closed = false;

  const hint = () => {
    restlessSince ??= performance.now();
    const left = restlessSince + quietMs * mostQuietPeriods - performance.now();
    clearTimeout(quiet);
    quiet = setTimeout(look, Math.max(0, Math.min(quietMs, left))).unref();
  };

  function look(): void {
    clearTimeout(quiet);
    restlessSince = undefined;
    if (looking !== undefined) {
      lookAgain = true;
      return;
    }
    looking = lookOnce(true).finally(() => {
      looking = undefined;
      if (lookAgain && !closed) {
        lookAgain = false;
        look();
      }
    });
  }

  async function lookOnce(tell: boolean): Promise<void> {
    for (const directory of watched) await watchDirectory(directory);
    const paths = new Set([...files, ...(await yamlFiles(directories)), ...known.keys()]);
    for (const path of paths) {
      const now = await signature(path);
      if (closed) return;
      if (now !== undefined) {
        missingSince.delete(path);
        if (known.get(path) === now) continue;
        known.set(path, now);
        if (tell) changed(path);
      } else if (known.has(path)) {
        const since = missingSince.get(path) ?? performance.now();
        missingSince.set(path, since);
        if (performance.now() - since < pollMs) continue;
        missingSince.delete(path);
        known.delete(path);
        changed(path);
      }
    }
  }

  /** Watches a directory, and anew if it is another one than before. */
  async function watchDirectory(directory: string): Promise<void> {
    const inode = (await stat(directory, { bigint: true }).catch(() => undefined))?.ino;
    const before = watchers.get(directory);
    if (closed || before?.inode === inode) return;
    before?.watcher.close();
    watchers.delete(directory);
    if (inode === undefined) return;
    try {
      const watcher = watch(directory, { persistent: false }, hint);
      watchers.set(directory, { watcher, inode });
      watcher.on("error", () => watcher.close());
    } catch {
      // No inotify, or none left: polling finds it.
    }
  }

  const ready = lookOnce(false);
  looking = ready.finally(() => (looking = undefined));
  // While somebody writes, the end of that is waited for.
  const poll = setInterval(() => restlessSince === undefined && look(), pollMs).unref();
  return {
    ready,
    close() {
      closed = true;
      clearTimeout(quiet);
      clearInterval(poll);
      for (const { watcher } of watchers.values()) watcher.close();
    },
  };
}

async function yamlFiles(directories: readonly string[]): Promise<string[]> {
  const found: string[] = [];
  for (const directory of directories) {
    for (const name of await readdir(directory).catch(() => [])) {
      if (name.endsWith(".yaml") && !name.startsWith(".")) found.push(join(directory, name));
    }
  }
  return found;
}

/** Differs when the content may differ; undefined for a file that is not there. */
async function signature(path: string): Promise<string | undefined> {
  const found = await stat(path, { bigint: true }).catch(() => undefined);
  if (found?.isFile() !== true) return undefined;
  return [found.dev, found.ino, found.size, found.mtimeNs, found.ctimeNs].join(":");
}
