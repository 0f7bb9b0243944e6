import type { IncomingMessage } from "node:http";
import { AgentError } from "../../../agent/driver/errors.ts";
import type { Metadata } from "../interface.ts";
import { bodyFrom, HttpClient, parseEndpoint } from "./http-client.ts";
import { parsePath, type StorePath } from "./path.ts";
import { capabilityOf, isADirectory, notFound, notSupported, plainMetadata, type Store } from "./store.ts";

export interface HttpStoreOptions {
  endpoint: string;
  root?: string;
  username?: string;
  password?: string;
  /** Bearer token. */
  token?: string;
}

/** Files behind an HTTP server, for reading. */
export function openHttpStore({ endpoint, root = "/", username, password, token }: HttpStoreOptions): Store {
  const client = new HttpClient(endpoint);
  const base = parseEndpoint(endpoint).pathname.replace(/\/$/, "") + encodePath(parsePath(`${root}/`));
  const headers: Record<string, string> = {};
  if (token !== undefined) headers["authorization"] = `Bearer ${token}`;
  else if (username !== undefined) {
    headers["authorization"] = `Basic ${Buffer.from(`${username}:${password ?? ""}`).toString("base64")}`;
  }
  const mayPresign = headers["authorization"] === undefined;
  const pathOf = (path: StorePath) => base + encodePath(path).slice(1);

  const stat = async (path: StorePath): Promise<Metadata> => {
    if (path.segments.length === 0) return plainMetadata("directory", 0);
    const response = await client.send({ method: "HEAD", path: pathOf(path), headers });
    response.resume();
    refuseError(response, path);
    return metadataOf(response, path);
  };

  return {
    capability: capabilityOf({
      stat: true,
      stat_with_if_match: true,
      stat_with_if_none_match: true,
      read: true,
      read_with_if_match: true,
      read_with_if_none_match: true,
      presign: mayPresign,
      presign_read: mayPresign,
      presign_stat: mayPresign,
      shared: true,
      blocking: true,
    }),
    stat,

    async openReader(path) {
      if (path.isDirectory) throw isADirectory(path);
      const { content_length: sizeBytes } = await stat(path);
      return {
        sizeBytes,
        async *chunks(start, signal) {
          if (start >= sizeBytes) return;
          const range = { range: `bytes=${start}-${sizeBytes - 1}` };
          const request = { method: "GET", path: pathOf(path), headers: { ...headers, ...range } } as const;
          const response = await client.send(request, signal);
          refuseError(response, path);
          yield* bodyFrom(response, start, sizeBytes);
        },
        close: async () => {},
      };
    },

    async presign(what, path) {
      // With a password, whoever gets the request would need it too.
      if (!mayPresign || what === "write") throw notSupported("http", `presign_${what} here`);
      return { url: client.origin + pathOf(path), method: what === "stat" ? "HEAD" : "GET", headers: {} };
    },

    async close() {
      client.close();
    },
  };
}

/** With a slash in front; slashes separate, everything else that needs it is encoded. */
export function encodePath(path: StorePath): string {
  const text = path.text === "/" ? "" : path.text;
  return `/${text.split("/").map(encodeURIComponent).join("/")}`;
}

/** What the headers of a HEAD say. */
export function metadataOf(response: IncomingMessage, path: StorePath): Metadata {
  const header = (name: string) => {
    const value = response.headers[name];
    return typeof value === "string" ? value : null;
  };
  const length = Number(header("content-length") ?? 0);
  return {
    ...plainMetadata(path.isDirectory ? "directory" : "file", Number.isSafeInteger(length) ? length : 0),
    content_disposition: header("content-disposition"),
    content_md5: header("content-md5"),
    content_type: header("content-type"),
    etag: header("etag"),
  };
}

function refuseError(response: IncomingMessage, path: StorePath): void {
  const status = response.statusCode ?? 0;
  if (status >= 200 && status < 300) return;
  response.destroy();
  if (status === 404) throw notFound(path);
  throw new AgentError("E_FAILED", `the server answered ${status} ${response.statusMessage ?? ""} for ${path.text}`);
}
