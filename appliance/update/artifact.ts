import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import * as z from "zod";
import { AgentError } from "../../agent/driver/errors.ts";
import { artifactOf } from "../../bundles/oci/artifact.ts";
import { verify, type Digest, type Expected } from "../../bundles/oci/digest.ts";
import { readManifest, titleAnnotation } from "../../bundles/oci/image.ts";
import { readExactly } from "../../bundles/oci/read-exactly.ts";
import { withRetries } from "../../bundles/oci/retry.ts";
import type { Source } from "../../bundles/oci/source.ts";

export const updateArtifactType = "application/vnd.jumpstarter.agent.update.v1+json";
const configType = "application/vnd.jumpstarter.agent.update.config.v1+json";
/** Titles of the three layers. */
const titles = { root: "root.squashfs", kernel: "vmlinuz", initrd: "initrd" } as const;

export const architectures = ["amd64", "arm64", "armhf"] as const;

/** What an update says of itself; its signature covers it. */
const description = z.object({
  version: z.string().regex(/^[A-Za-z0-9][A-Za-z0-9.+~^_-]{0,63}$/, "no version: letters, digits and . + ~ ^ _ -"),
  architecture: z.enum(architectures),
  /** IMAGE_ID of the systems that it may replace. */
  imageId: z.string().regex(/^[a-z0-9][a-z0-9._-]{0,63}$/, "no IMAGE_ID as os-release(5) has it"),
});
export type UpdateDescription = z.output<typeof description>;

/** No description needs more. */
const largestDescriptionBytes = 64 * 1024;

/** An update whose manifest and description have been read and compared with their digests. */
export interface Update extends UpdateDescription {
  readonly digest: Digest;
  readonly root: Expected;
  readonly kernel: Expected;
  readonly initrd: Expected;
}

export type UpdatePart = keyof typeof titles;

/** The files of a system that becomes an update. */
export type UpdateFiles = Readonly<Record<UpdatePart, string>>;

/**
 * Makes an update of a system's files, once each is what it should be. The same files make the same digest.
 * @throws AgentError E_INVALID for what is no squashfs, kernel or initramfs, or a wrong description; the system's error
 */
export async function updateOf(
  files: UpdateFiles,
  described: { readonly version: string; readonly architecture: string; readonly imageId: string },
  signal: AbortSignal,
): Promise<{ source: Source; digest: Digest }> {
  const config = parseDescription(described, "the update");
  await mustBe(files.root, "a squashfs", [{ at: 0, bytes: "hsqs" }]);
  await mustBe(files.kernel, "a kernel that EFI firmware can start", [{ at: 0, bytes: "MZ" }]);
  await mustBe(files.initrd, "an initramfs", initramfsMarks);
  return await artifactOf(
    Object.entries(titles).map(([part, title]) => ({ title, path: files[part as UpdatePart] })),
    signal,
    { artifactType: updateArtifactType, config: { mediaType: configType, bytes: Buffer.from(JSON.stringify(config)) } },
  );
}

/** cpio, plain (perhaps microcode in front) or packed with gzip, zstd or xz. */
const initramfsMarks = ["070701", "070702", "\x1f\x8b", "\x28\xb5\x2f\xfd", "\xfd7zXZ"].map((bytes) => ({
  at: 0,
  bytes,
}));

async function mustBe(path: string, what: string, marks: readonly { at: number; bytes: string }[]): Promise<void> {
  if (!(await stat(path)).isFile()) throw new AgentError("E_INVALID", `${path} is no file`);
  const start: Buffer[] = [];
  for await (const chunk of createReadStream(path, { end: 15 })) start.push(chunk as Buffer);
  const text = Buffer.concat(start).toString("latin1");
  if (marks.some(({ at, bytes }) => text.startsWith(bytes, at))) return;
  throw new AgentError("E_INVALID", `${path} is not ${what}`);
}

/**
 * Reads what an update is; its signature is not looked at.
 * @param name what errors call it
 * @throws AgentError E_INVALID for what is no update, E_DIGEST; as the source
 */
export async function readUpdate(
  source: Source,
  digest: Digest,
  { name, signal }: { readonly name: string; readonly signal: AbortSignal },
): Promise<Update> {
  const raw = await withRetries(() => source.manifest(digest, signal), { signal });
  verify(raw.bytes, digest, `the manifest of ${name}`);
  const read = readManifest(raw, name);
  if (!("image" in read) || read.image.artifactType !== updateArtifactType) {
    throw new AgentError("E_INVALID", `${name} is no update of the agent's image`, {
      hint: "'jmp-agent update build' makes one",
    });
  }
  const { config, layers } = read.image;
  if (config?.mediaType !== configType || config.size > largestDescriptionBytes) {
    throw new AgentError("E_INVALID", `${name} does not say what it is an update for`);
  }
  const part = (wanted: UpdatePart): Expected => {
    const [found, ...more] = layers.filter(({ annotations }) => annotations?.[titleAnnotation] === titles[wanted]);
    if (found !== undefined && more.length === 0) return { digest: found.digest, size: found.size };
    throw new AgentError("E_INVALID", `${name} must have one layer titled ${titles[wanted]}`);
  };
  const parts = { root: part("root"), kernel: part("kernel"), initrd: part("initrd") };
  const text = await withRetries(() => readExactly(source, config, `the description of ${name}`, signal), { signal });
  let document: unknown;
  try {
    document = JSON.parse(text.toString("utf8"));
  } catch (cause) {
    throw new AgentError("E_INVALID", `the description of ${name} is not JSON`, { cause });
  }
  return { digest, ...parseDescription(document, name), ...parts };
}

function parseDescription(document: unknown, name: string): UpdateDescription {
  const parsed = description.safeParse(document);
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.map(({ path, message }) => `${path.join(".")}: ${message}`);
  throw new AgentError("E_INVALID", `the description of ${name} is malformed: ${problems.join("; ")}`);
}
