import { createHash, randomBytes } from "node:crypto";
import { cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { readBootState, writeBootState, type SlotName } from "../../appliance/slots/boot-state.ts";
import { updateOf, type UpdateDescription } from "../../appliance/update/artifact.ts";
import type { RunningSystem, SystemRoots } from "../../appliance/slots/system.ts";
import { artifactOf } from "../../bundles/oci/artifact.ts";
import { openArchiveSink } from "../../bundles/oci/archive-sink.ts";
import { copyImage } from "../../bundles/oci/copy.ts";
import type { Digest } from "../../bundles/oci/digest.ts";
import type { Source } from "../../bundles/oci/source.ts";
import { signImage } from "../../bundles/signature/sign.ts";
import type { KeyPair } from "./signing.ts";

const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

/** The files of one system. */
export interface SystemFiles {
  readonly root: string;
  readonly kernel: string;
  readonly initrd: string;
}

/** Made-up files that have the right beginnings. */
export function systemFiles(folder: string, rootBytes = 5_000_000): SystemFiles {
  mkdirSync(folder, { recursive: true });
  const file = (name: string, start: string, bytes: number) => {
    writeFileSync(join(folder, name), Buffer.concat([Buffer.from(start, "latin1"), randomBytes(bytes)]));
    return join(folder, name);
  };
  return {
    root: file("root", "hsqs", rootBytes),
    kernel: file("kernel", "MZ", 700_000),
    initrd: file("initrd", "\x1f\x8b", 900_000),
  };
}

export const description: UpdateDescription = { version: "2", architecture: "amd64", imageId: "lab" };

/** An archive with a signed update. @param change of its files, before they are packed */
export async function updateArchive(
  path: string,
  files: SystemFiles,
  { privateKey }: Pick<KeyPair, "privateKey">,
  described: UpdateDescription = description,
): Promise<string> {
  const signal = AbortSignal.timeout(60_000);
  await writeSigned(path, await updateOf(files, described, signal), privateKey);
  return path;
}

/** An archive with a signed artifact that is no update. */
export async function otherArchive(
  path: string,
  file: string,
  { privateKey }: Pick<KeyPair, "privateKey">,
): Promise<string> {
  const artifact = await artifactOf([{ title: "root.squashfs", path: file }], AbortSignal.timeout(60_000));
  await writeSigned(path, artifact, privateKey);
  return path;
}

async function writeSigned(
  path: string,
  { source, digest }: { source: Source; digest: Digest },
  key: KeyPair["privateKey"],
): Promise<void> {
  const signal = AbortSignal.timeout(60_000);
  const sink = await openArchiveSink(path);
  try {
    const statement = { digest, repository: "" };
    const unfinished = { ...sink, finish: () => Promise.resolve() };
    await signImage({ source, sink: unfinished, statement, key, name: path, signal });
    await copyImage(source, digest, sink, { name: path, named: { tag: "latest" }, signal });
    await sink.finish();
  } finally {
    await sink.close();
  }
}

/** A host that runs from slot a, whose boot partition is a folder. */
export interface UpdateLab {
  readonly boot: string;
  readonly roots: SystemRoots;
  readonly system: RunningSystem;
}

/** @param root block device of the other slot */
export function updateLab(folder: string, files: SystemFiles, root: { path: string; sizeBytes: number }): UpdateLab {
  const boot = join(folder, "boot");
  for (const slot of ["a", "b"]) mkdirSync(join(boot, "slots", slot), { recursive: true });
  mkdirSync(join(boot, "grub"));
  for (const name of ["grubenv", "grubenv.safe"]) {
    const state = writeBootState({ slot: "a", trial: undefined, tries: 0, invalid: undefined });
    writeFileSync(join(boot, "grub", name), state);
  }
  cpSync(files.kernel, join(boot, "slots/a/vmlinuz"));
  cpSync(files.initrd, join(boot, "slots/a/initrd"));
  mkdirSync(join(folder, "proc/self"), { recursive: true });
  writeFileSync(join(folder, "proc/self/mountinfo"), `30 29 9:1 / ${boot} rw,relatime shared:2 - vfat /dev/x rw\n`);
  const partition = (path: string, sizeBytes: number) => ({ path, number: "9:1", sizeBytes });
  return {
    boot,
    roots: { proc: join(folder, "proc"), sys: "/nowhere", dev: "/nowhere", root: folder },
    system: {
      slot: "a",
      startedAs: "confirmed",
      version: "1",
      imageId: "lab",
      architecture: "amd64",
      boot: partition("/nowhere", 0),
      otherRoot: partition(root.path, root.sizeBytes),
    },
  };
}

/** What image/grub.cfg starts, and how; the virtual machine shows that it does. */
export function grubChoice(boot: string): { slot: SlotName; as: "trial" | "confirmed" | "fallback" } | undefined {
  const read = (name: string) => {
    const path = join(boot, "grub", name);
    return existsSync(path) ? readBootState(readFileSync(path)) : undefined;
  };
  const main = read("grubenv");
  const state = main ?? read("grubenv.safe");
  const slot = state?.slot ?? "a";
  const other = slot === "a" ? "b" : "a";
  const canStart = (name: SlotName) =>
    ["vmlinuz", "initrd"].every((file) => existsSync(join(boot, "slots", name, file)));
  const isTried = main?.trial === other && main.tries > 0 && main.invalid !== other;
  if (isTried && canStart(other)) return { slot: other, as: "trial" };
  if (canStart(slot)) return { slot, as: "confirmed" };
  return state?.invalid !== other && canStart(other) ? { slot: other, as: "fallback" } : undefined;
}

/** Whether a slot has exactly these files. @param root what holds the root of the slot; undefined if it is not looked at */
export function holds(boot: string, slot: SlotName, files: SystemFiles, root: string | undefined): boolean {
  const same = (path: string, file: string, bytes?: number) =>
    sha256(readFileSync(path).subarray(0, bytes)) === sha256(readFileSync(file));
  const isRoot = root === undefined || same(root, files.root, readFileSync(files.root).length);
  return (
    isRoot &&
    same(join(boot, "slots", slot, "vmlinuz"), files.kernel) &&
    same(join(boot, "slots", slot, "initrd"), files.initrd)
  );
}
