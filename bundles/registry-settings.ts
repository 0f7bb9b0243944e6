import { readFile } from "node:fs/promises";
import * as z from "zod";
import type { AgentError } from "../agent/driver/errors.ts";
import { findCredential } from "./oci/credentials.ts";
import { mirrorsOf, withMirrors, type Mirrors, type NamedSource } from "./oci/mirrors.ts";
import type { RegistryReference } from "./oci/reference.ts";
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
  const { plainHttp, registryCa, environmentCredentialsFor, mirrors = {}, onMirrorFailure = () => {} } = access;
  // Only now is an HTTP client loaded: a pinned bundle that is here does without.
  const { openRegistry } = await import("./oci/registry.ts");
  const ca = registryCa === undefined ? undefined : await readFile(registryCa, "utf8");
  const open = async (place: RegistryReference): Promise<NamedSource> => {
    const { host, repository } = place;
    const credential = await findCredential(host, repository, { useEnvironment: environmentCredentialsFor === host });
    return { name: host, source: openRegistry(place, { plainHttp, ca, credential }) };
  };
  const origin = await open(reference);
  const places = await Promise.all(mirrorsOf(reference, mirrors).map(open));
  return places.length === 0 ? origin.source : withMirrors(origin, places, onMirrorFailure);
}
