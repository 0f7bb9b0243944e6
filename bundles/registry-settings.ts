import { readFile } from "node:fs/promises";
import * as z from "zod";
import { AgentError } from "../agent/driver/errors.ts";
import { findCredential } from "../agent/stream/registry-credentials.ts";
import { mirrorsOf, withMirrors, type Mirrors, type NamedSource } from "./oci/mirrors.ts";
import type { RegistryReference } from "./oci/reference.ts";
import type { RegistryOptions } from "./oci/registry.ts";
import type { Source } from "./oci/source.ts";

/** An address of a registry is written as in references. */
const registryHost = z.string().regex(/^[^/\s]+$/, "must be host or host:port");
const registryName = z.string().regex(/^[^/\s]+(\/[a-z0-9._-]+)*$/, "must be host[:port], with or without a namespace");

/** What a configuration says about registries. */
export const registrySettings = {
  plain_http: z
    .array(registryHost)
    .default([])
    .describe("registries (host or host:port) that are spoken to without TLS"),
  registry_ca: z.string().nullish().describe("PEM file of a certificate authority that registries use"),
  mirrors: z
    .record(registryName, z.array(registryName))
    .nullish()
    .describe("where else registries' content is had, asked first: {quay.io: [mirror.lab:5000/quay]}"),
};

/** @param words `NAME=MIRROR`, the first to ask first. @throws AgentError E_USAGE */
export function parseMirrors(words: readonly string[]): Mirrors {
  const mirrors: Record<string, string[]> = {};
  for (const word of words) {
    const parts = word.split("=");
    const [name = "", mirror = ""] = parts;
    if (parts.length !== 2 || !parts.every((part) => registryName.safeParse(part).success)) {
      const text = `${JSON.stringify(word)} is no mirror; write it as quay.io=mirror.lab:5000/quay`;
      throw new AgentError("E_USAGE", text);
    }
    (mirrors[name] ??= []).push(mirror);
  }
  return mirrors;
}

export interface RegistryAccess {
  /** Registries (`host` or `host:port`) that are spoken to without TLS. */
  readonly plainHttp: readonly string[];
  /** File with certificate authorities that registries may use. */
  readonly registryCa: string | undefined;
  /** The registry that OCI_USERNAME and OCI_PASSWORD are meant for. */
  readonly environmentCredentialsFor: string | undefined;
  readonly mirrors?: Mirrors | undefined;
  readonly onMirrorFailure?: ((mirror: string, error: AgentError) => void) | undefined;
}

/** Opens a repository, with its mirrors; nobody is asked anything yet. */
export async function openRepository(reference: RegistryReference, access: RegistryAccess): Promise<Source> {
  const { mirrors = {}, onMirrorFailure = () => {} } = access;
  // Only now is an HTTP client loaded: a pinned bundle that is here does without.
  const { openRegistry } = await import("./oci/registry.ts");
  const open = async (place: RegistryReference): Promise<NamedSource> => ({
    name: place.host,
    source: openRegistry(place, await registryOptionsOf(place, access)),
  });
  const origin = await open(reference);
  const places = await Promise.all(mirrorsOf(reference, mirrors).map(open));
  return places.length === 0 ? origin.source : withMirrors(origin, places, onMirrorFailure);
}

/** How a repository is spoken to. */
export async function registryOptionsOf(
  { host, repository }: RegistryReference,
  { plainHttp, registryCa, environmentCredentialsFor }: RegistryAccess,
): Promise<RegistryOptions> {
  return {
    plainHttp,
    ca: registryCa === undefined ? undefined : await readFile(registryCa, "utf8"),
    credential: await findCredential(host, repository, { useEnvironment: environmentCredentialsFor === host }),
  };
}
