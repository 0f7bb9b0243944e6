import { status, type Metadata } from "@grpc/grpc-js";
import { plainError, RpcError, type Call } from "./rpc.ts";
import { key, type ClientObject, type ExporterObject, type World } from "./world.ts";

/** Who calls, as the real controller finds it out. Its plain errors reach callers as UNKNOWN. */
export interface Auth {
  exporter(call: Call): ExporterObject;
  client(call: Call, namespace?: string): ClientObject;
  /** By the metadata alone. */
  isExporter(call: Call): boolean;
  /** What is answered to a token that is not accepted. */
  refusal: { code: status; details: string };
}

export function createAuth(world: World): Auth {
  const verify = <T extends { tokens: Set<string> }>(
    call: Call,
    kind: "Exporter" | "Client",
    objects: ReadonlyMap<string, T>,
  ): T => {
    const token = bearerToken(call.metadata);
    // A token that belongs to nobody is refused before anything else is looked at.
    const known = [...world.exporters.values(), ...world.clients.values()].some(({ tokens }) => tokens.has(token));
    if (!known) throw new RpcError(auth.refusal.code, auth.refusal.details);
    const namespace = single(call.metadata, "jumpstarter-namespace");
    const claimed = single(call.metadata, "jumpstarter-kind");
    const name = single(call.metadata, "jumpstarter-name");
    if (claimed !== kind) throw new RpcError(status.INVALID_ARGUMENT, "object kind mismatch");
    const lower = kind.toLowerCase();
    const object = objects.get(key(namespace, name));
    if (!object) throw plainError(`${lower} ${namespace}/${name}: ${lower}s.jumpstarter.dev "${name}" not found`);
    if (!object.tokens.has(token)) {
      throw new RpcError(status.PERMISSION_DENIED, `permission denied for ${lower} ${namespace}/${name}`);
    }
    call.caller = name;
    return object;
  };
  const auth: Auth = {
    exporter: (call) => verify(call, "Exporter", world.exporters),
    client(call, namespace) {
      const client = verify(call, "Client", world.clients);
      if (namespace !== undefined && namespace !== client.namespace) {
        throw new RpcError(status.PERMISSION_DENIED, "namespace mismatch");
      }
      return client;
    },
    isExporter(call) {
      const kinds = values(call.metadata, "jumpstarter-kind");
      return kinds.length === 1 && kinds[0] === "Exporter";
    },
    refusal: { code: status.UNKNOWN, details: "failed to authenticate token" },
  };
  return auth;
}

export function bearerToken(metadata: Metadata): string {
  const given = values(metadata, "authorization");
  if (given.length === 0) throw new RpcError(status.UNAUTHENTICATED, "missing authorization header");
  if (given.length > 1) throw new RpcError(status.INVALID_ARGUMENT, "multiple authorization headers");
  const header = given[0] ?? "";
  if (!/^bearer /i.test(header)) throw new RpcError(status.INVALID_ARGUMENT, "malformed authorization header");
  return header.slice(7);
}

function single(metadata: Metadata, name: string): string {
  const given = values(metadata, name);
  if (given.length === 0) throw new RpcError(status.INVALID_ARGUMENT, `missing metadata: ${name}`);
  if (given.length > 1) throw new RpcError(status.INVALID_ARGUMENT, `multiple metadata: ${name}`);
  return given[0] ?? "";
}

/**
 * Node joins repeated headers with a comma, which no name contains. Of several `authorization` headers it keeps the first,
 * so that those go unnoticed here.
 */
function values(metadata: Metadata, name: string): string[] {
  return metadata.get(name).flatMap((value) => value.toString().split(", "));
}
