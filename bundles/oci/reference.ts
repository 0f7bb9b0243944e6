import { basename, resolve } from "node:path";
import { AgentError } from "../../agent/driver/errors.ts";
import { isDigest, type Digest } from "./digest.ts";

/** An image in a registry; `tag` is always set, `digest` wins over it. */
export interface RegistryReference {
  readonly kind: "registry";
  /** As written: `quay.io`, `localhost:5000`, `[::1]:5000`. */
  readonly host: string;
  readonly repository: string;
  readonly tag: string;
  readonly digest: Digest | undefined;
}

/** An image in an OCI image layout on disk. */
export interface LayoutReference {
  readonly kind: "oci-layout";
  readonly directory: string;
  /** Undefined means: the only image of the layout, or else `latest`. */
  readonly tag: string | undefined;
  readonly digest: Digest | undefined;
}

/** A plain directory that holds the bundle's files. */
interface DirectoryReference {
  readonly kind: "file";
  readonly directory: string;
}

export type Reference = RegistryReference | LayoutReference | DirectoryReference;

// The grammar of github.com/distribution/reference.
const tagPattern = /^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$/;
const repositoryPattern = /^[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:\/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*$/;
const hostPattern = /^(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?$/;
const longestReference = 1024;

/**
 * Reads `[host[:port]/]namespace/repository[:tag][@digest]`, `oci-layout:DIR[:tag|@digest]` or `file:DIR`.
 * @throws AgentError E_INVALID
 */
export function parseReference(text: string): Reference {
  if (text.length > longestReference)
    throw invalid(`${text.slice(0, 60)}…`, `longer than ${longestReference} characters`);
  if (text.startsWith("file:")) return { kind: "file", directory: directoryOf(text, text.slice("file:".length)) };
  const { rest, digest } = splitDigest(text);
  if (rest.startsWith("oci-layout:")) {
    const { name, tag } = splitTag(rest.slice("oci-layout:".length));
    const directory = directoryOf(text, name);
    if (tag !== undefined && !tagPattern.test(tag)) throw invalid(text, "the tag is malformed");
    if (tag === undefined && basename(directory).includes(":"))
      throw invalid(text, "the directory's name looks like a tag");
    return { kind: "oci-layout", directory, tag, digest };
  }
  if (text.includes("://")) throw invalid(text, "leave out the scheme");
  const slash = rest.indexOf("/");
  const first = slash < 0 ? "" : rest.slice(0, slash);
  const isHost = /[.:]/.test(first) || first === "localhost";
  const host = isHost ? first : "docker.io";
  const { name, tag } = splitTag(isHost ? rest.slice(slash + 1) : rest);
  const repository = host === "docker.io" && !name.includes("/") ? `library/${name}` : name;
  // The pattern takes names that no URL can have: one whose last label is a number would be an IPv4 address.
  if (!hostPattern.test(host) || !URL.canParse(`https://${host}/`))
    throw invalid(text, "the registry's host is malformed");
  if (!repositoryPattern.test(repository))
    throw invalid(text, "the repository is malformed (lower case letters, digits, . _ - /)");
  if (tag !== undefined && !tagPattern.test(tag)) throw invalid(text, "the tag is malformed");
  return { kind: "registry", host, repository, tag: tag ?? "latest", digest };
}

/** The reference as it is compared and shown: complete, and the same for every way to write it. */
export function formatReference(reference: Reference): string {
  if (reference.kind === "file") return `file:${reference.directory}`;
  const pin = reference.digest === undefined ? "" : `@${reference.digest}`;
  if (reference.kind === "registry") return `${reference.host}/${reference.repository}:${reference.tag}${pin}`;
  return `oci-layout:${reference.directory}${reference.tag === undefined ? "" : `:${reference.tag}`}${pin}`;
}

function splitDigest(text: string): { rest: string; digest: Digest | undefined } {
  const at = text.lastIndexOf("@");
  if (at < 0) return { rest: text, digest: undefined };
  const digest = text.slice(at + 1);
  if (isDigest(digest)) return { rest: text.slice(0, at), digest };
  // A directory may have an @ in its name; a registry's repository may not.
  if (text.startsWith("oci-layout:")) return { rest: text, digest: undefined };
  throw invalid(text, "the digest is malformed (sha256:… with 64 hex digits)");
}

function splitTag(text: string): { name: string; tag: string | undefined } {
  const colon = text.lastIndexOf(":");
  if (colon <= text.lastIndexOf("/")) return { name: text, tag: undefined };
  return { name: text.slice(0, colon), tag: text.slice(colon + 1) };
}

function directoryOf(text: string, path: string): string {
  if (path === "" || path.includes("\0")) throw invalid(text, "the directory is missing");
  return resolve(path);
}

function invalid(text: string, why: string): AgentError {
  return new AgentError("E_INVALID", `${JSON.stringify(text)} is not a bundle reference: ${why}`, {
    hint: "[host[:port]/]namespace/repository[:tag][@digest], oci-layout:DIR[:tag|@digest] or file:DIR",
  });
}
