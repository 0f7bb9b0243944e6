import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { createServer as createTlsServer } from "node:https";
import { connect, createServer as createTcpServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

const debianRegistry = "/usr/bin/docker-registry";

/** Why the real registry cannot be used here; false if it can. For `{ skip }`. */
export const noRealRegistry = existsSync(debianRegistry) ? false : "Debian's docker-registry is not installed";

export interface RealRegistryOptions {
  /** Lines of its configuration, for logins and mirrors. */
  readonly config?: readonly string[];
  /** PEM texts, to speak HTTPS. */
  readonly tls?: { readonly certificate: string; readonly key: string };
}

/** Starts Debian's docker-registry on a free loopback port. @returns `host:port` and how to stop it early */
export async function startRealRegistry(
  t: TestContext,
  { config: more = [], tls }: RealRegistryOptions = {},
): Promise<{ host: string; stop: () => Promise<void> }> {
  const directory = await mkdtemp(join(tmpdir(), "registry-"));
  const host = `127.0.0.1:${await freePort()}`;
  const files = { certificate: join(directory, "tls.pem"), key: join(directory, "tls.key") };
  if (tls !== undefined) {
    await writeFile(files.certificate, tls.certificate);
    await writeFile(files.key, tls.key);
  }
  const tlsConfig = tls === undefined ? "" : `, tls: ${JSON.stringify(files)}`;
  const config = [
    "version: 0.1",
    "log: { level: error, accesslog: { disabled: true } }",
    `storage: { filesystem: { rootdirectory: ${JSON.stringify(directory)} }, delete: { enabled: true } }`,
    `http: { addr: "${host}"${tlsConfig} }`,
    ...more,
  ];
  const configPath = join(directory, "config.yml");
  await writeFile(configPath, config.join("\n"));
  const child = spawn(debianRegistry, ["serve", configPath], { stdio: "ignore" });
  const ended = once(child, "exit");
  const stop = async () => {
    child.kill();
    await ended;
  };
  t.after(async () => {
    await stop();
    await rm(directory, { recursive: true, force: true });
  });
  for (;;) {
    if (child.exitCode !== null) throw new Error(`docker-registry ended with ${child.exitCode}`);
    if (await accepts(host)) return { host, stop };
    await sleep(50);
  }
}

async function accepts(host: string): Promise<boolean> {
  const socket = connect(Number(host.slice(host.lastIndexOf(":") + 1)), "127.0.0.1");
  try {
    await once(socket, "connect");
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}

async function freePort(): Promise<number> {
  const server = createTcpServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

export const sha256 = (bytes: string | Uint8Array) => `sha256:${createHash("sha256").update(bytes).digest("hex")}`;

export interface FakeLayer {
  title?: string;
  mediaType?: string;
  content: Uint8Array;
  /** Where the descriptor lies. */
  digest?: string;
  size?: number;
}

/**
 * A registry in this process that holds what tests put there, true or not. `answer` may take over any request; it
 * returns false to let the registry answer as usual.
 */
export interface FakeRegistry {
  readonly host: string;
  readonly requests: { method: string; url: string; authorization: string | undefined }[];
  readonly manifests: Map<string, { mediaType: string; bytes: Uint8Array }>;
  readonly blobs: Map<string, Uint8Array>;
  answer: (request: IncomingMessage, response: ServerResponse) => boolean;
  /** Puts an image under a tag (and under its digest). @returns its digest */
  put: (tag: string, layers: readonly FakeLayer[], extra?: object) => string;
  putManifest: (tag: string, document: object, mediaType?: string) => string;
  stop: () => Promise<void>;
}

export const imageType = "application/vnd.oci.image.manifest.v1+json";
export const indexType = "application/vnd.oci.image.index.v1+json";

/** @param tls key and certificate, to speak HTTPS */
export async function startFakeRegistry(t: TestContext, tls?: { key: string; cert: string }): Promise<FakeRegistry> {
  const manifests: FakeRegistry["manifests"] = new Map();
  const blobs: FakeRegistry["blobs"] = new Map();
  const requests: FakeRegistry["requests"] = [];
  const serve = (request: IncomingMessage, response: ServerResponse) => {
    const { method = "", url = "" } = request;
    requests.push({ method, url, authorization: request.headers.authorization });
    if (registry.answer(request, response)) return;
    const [, kind, name = ""] = /\/(manifests|blobs)\/([^/?]+)/.exec(url) ?? [];
    const manifest = kind === "manifests" ? manifests.get(name) : undefined;
    const blob = kind === "blobs" ? blobs.get(name) : undefined;
    if (manifest !== undefined) {
      response.setHeader("content-type", manifest.mediaType);
      response.setHeader("docker-content-digest", sha256(manifest.bytes));
      response.end(method === "HEAD" ? undefined : manifest.bytes);
    } else if (blob !== undefined) response.end(blob);
    else response.writeHead(404).end(JSON.stringify({ errors: [{ code: "MANIFEST_UNKNOWN", message: "no" }] }));
  };
  const server = tls === undefined ? createServer(serve) : createTlsServer(tls, serve);
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const stop = async () => {
    server.closeAllConnections();
    if (server.listening) await new Promise((done) => server.close(done));
  };
  t.after(stop);
  const registry: FakeRegistry = {
    host: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    manifests,
    blobs,
    answer: () => false,
    putManifest: (tag, document, mediaType = imageType) => {
      const bytes = Buffer.from(JSON.stringify(document));
      const digest = sha256(bytes);
      for (const name of [tag, digest]) manifests.set(name, { mediaType, bytes });
      return digest;
    },
    put: (tag, layers, extra = {}) => {
      const descriptors = layers.map(({ title, content, ...layer }) => {
        const digest = layer.digest ?? sha256(content);
        blobs.set(digest, content);
        return {
          mediaType: layer.mediaType ?? "application/octet-stream",
          digest,
          size: layer.size ?? content.length,
          ...(title === undefined ? {} : { annotations: { "org.opencontainers.image.title": title } }),
        };
      });
      return registry.putManifest(tag, { schemaVersion: 2, mediaType: imageType, layers: descriptors, ...extra });
    },
    stop,
  };
  return registry;
}
