import { execFileSync } from "node:child_process";
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { loadTryLock } from "../../agent/sys/flock.ts";
import { loopDisk } from "./loop.ts";

const pollMs = 10;
/** Looks at a file that has not grown since, and that nobody has open: then its copy is complete. */
const quietLooks = 4;

/** What a board does when a file has been copied to its volume. */
type OnCopied = (name: string, content: Buffer, volume: BoardVolume) => void;

/**
 * A board's disk as a desktop has mounted it: a loop device with a real file system, in which somebody looks for what was copied there.
 * Stands in for a USB disk where there is no USB; test/sim/usbip has those.
 */
export interface BoardVolume {
  readonly folder: string;
  readonly device: string;
  /** Plugs the disk out and in, as boards do that have got a firmware; with these files added or (undefined) removed. */
  replug(changes?: Readonly<Record<string, string | undefined>>): void;
  unplug(): void;
}

/** Whether a process has the file open: it stands still between two writes, too. */
function isOpen(path: string): boolean {
  const processes = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  return processes.some((pid) => {
    try {
      const open = readdirSync(join("/proc", pid, "fd"));
      return open.some((fd) => linkOf(join("/proc", pid, "fd", fd)) === path);
    } catch {
      return false; // the process has ended
    }
  });
}

function linkOf(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch {
    return undefined; // closed since
  }
}

/** What a host has mounted is seen by every process: one test file at a time has such volumes. */
export async function volumesForUs(t: { after(done: () => void): void }): Promise<void> {
  const file = openSync(join(tmpdir(), "jmp-agent-board-volumes.lock"), "w");
  t.after(() => closeSync(file));
  const tryLock = await loadTryLock();
  while (!tryLock(file, "exclusive")) await sleep(50);
}

/** @param name of the folder that it is mounted on */
export function boardVolume(
  t: Pick<TestContext, "after">,
  name: string,
  files: Readonly<Record<string, string>>,
  onCopied: OnCopied = () => {},
): BoardVolume {
  const parent = mkdtempSync(join(tmpdir(), "jmp-agent-"));
  const folder = join(parent, name);
  mkdirSync(folder);
  const disk = loopDisk(t, { sizeBytes: 4 * 2 ** 20 });
  execFileSync("mkfs.ext2", ["-q", "-m", "0", disk.path]);
  let isAttached = true;
  let isIn = false;
  const change = (changes: Readonly<Record<string, string | undefined>>) => {
    for (const [file, text] of Object.entries(changes)) {
      if (text === undefined) rmSync(join(folder, file), { force: true });
      else writeFileSync(join(folder, file), text);
    }
  };
  const plug = () => {
    execFileSync("mount", ["-o", "sync", disk.path, folder]);
    isIn = true;
  };
  const unmount = () => {
    if (isIn) execFileSync("umount", ["--lazy", folder]);
    isIn = false;
  };
  plug();
  change(files);
  const known = new Set(readdirSync(folder));
  const watched = new Map<string, { bytes: number; looks: number }>();
  const timer = setInterval(() => {
    for (const file of isIn ? readdirSync(folder) : []) {
      if (known.has(file)) continue;
      const { size } = statSync(join(folder, file));
      const last = watched.get(file);
      const looks = last?.bytes === size && size > 0 ? last.looks + 1 : 0;
      watched.set(file, { bytes: size, looks });
      if (looks < quietLooks || isOpen(join(folder, file))) continue;
      watched.delete(file);
      const content = readFileSync(join(folder, file));
      rmSync(join(folder, file));
      onCopied(file, content, volume);
      for (const one of isIn ? readdirSync(folder) : []) known.add(one);
    }
  }, pollMs);
  t.after(() => {
    clearInterval(timer);
    unmount();
    rmSync(parent, { recursive: true, force: true });
  });
  const volume: BoardVolume = {
    folder,
    device: disk.path,
    unplug() {
      unmount();
      disk.eject();
      isAttached = false;
    },
    replug(changes = {}) {
      unmount();
      if (!isAttached) disk.insert();
      isAttached = true;
      plug();
      change(changes);
    },
  };
  return volume;
}
