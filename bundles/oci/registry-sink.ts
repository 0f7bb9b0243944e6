import { Transform } from "node:stream";
import { pipeline } from "node:stream/promises";
import { AgentError } from "../../agent/driver/errors.ts";
import { verifying, type Expected } from "./digest.ts";
import { discard, headerOf, resolveUrl } from "./http.ts";
import type { RegistryReference } from "./reference.ts";
import { openRegistry, type RegistryOptions } from "./registry.ts";
import { withRetries } from "./retry.ts";
import type { Sink, TransferOptions } from "./sink.ts";
import type { Source } from "./source.ts";

export interface RegistrySinkOptions extends RegistryOptions {
  /** A repository of the same registry that the blobs may be in: then nothing has to travel. */
  readonly mountFrom?: string | undefined;
}

/** Pushes to a repository. Blobs go up in one piece, as every registry takes them. */
export function openRegistrySink(reference: RegistryReference, options: RegistrySinkOptions): Sink {
  const { repository } = reference;
  const registry = openRegistry(reference, { ...options, actions: "pull,push" });

  /** @returns where to put the blob; undefined if the registry had it elsewhere */
  const beginUpload = async ({ digest }: Expected, signal: AbortSignal): Promise<URL | undefined> => {
    const { mountFrom } = options;
    const mount =
      mountFrom === undefined ? "" : `?${new URLSearchParams({ mount: digest, from: mountFrom }).toString()}`;
    let begun = await registry.send({ method: "POST", path: `blobs/uploads/${mount}`, signal });
    if (mount !== "" && begun.status !== 201 && begun.status !== 202) {
      // Who may not read the other repository may still push.
      discard(begun);
      begun = await registry.send({ method: "POST", path: "blobs/uploads/", signal });
    }
    const location = headerOf(begun, "location");
    if (begun.status === 201) return void discard(begun);
    if (begun.status !== 202 || location === undefined) {
      throw await registry.refusal(begun, `an upload to ${repository}`, signal);
    }
    discard(begun);
    const url = resolveUrl(location, registry.root);
    url.searchParams.set("digest", digest);
    return url;
  };

  const upload = async (expected: Expected, from: Pick<Source, "blob">, transfer: TransferOptions) => {
    const { name, signal, onProgress } = transfer;
    const url = await beginUpload(expected, signal);
    if (url === undefined) return;
    const content = await from.blob(expected, { signal });
    const checked = verifying(expected, name);
    const body = counting(onProgress);
    let failure: Error | undefined;
    // Both end together, each with the other's error: what failed while the request still read is the content.
    const note = (error: Error) => {
      if (!body.destroyed) failure = error;
    };
    const read = pipeline(content.on("error", note), checked.on("error", note), body, { signal });
    read.catch(() => {});
    const headers = { "content-type": "application/octet-stream", "content-length": String(expected.size) };
    try {
      const done = await registry.send({ method: "PUT", path: url, headers, body, signal });
      if (done.status !== 201) throw await registry.refusal(done, `blob ${expected.digest}`, signal);
      discard(done);
    } catch (error) {
      throw failure ?? error;
    } finally {
      body.destroy();
    }
  };

  return {
    hasBlob: async ({ digest }, signal) =>
      await withRetries(
        async () => {
          const answer = await registry.send({ method: "HEAD", path: `blobs/${digest}`, signal });
          discard(answer);
          if (answer.status === 200 || answer.status === 404) return answer.status === 200;
          throw await registry.refusal(answer, `a look at blob ${digest}`, signal);
        },
        { signal },
      ),
    putBlob: async (expected, from, transfer) => {
      await withRetries(() => upload(expected, from, transfer), { signal: transfer.signal });
    },
    putManifest: async (raw, digest, { named, signal }) => {
      const headers = { "content-type": raw.mediaType };
      const path = `manifests/${named?.tag ?? digest}`;
      await withRetries(
        async () => {
          const answer = await registry.send({ method: "PUT", path, headers, body: raw.bytes, signal });
          if (answer.status !== 201) throw await registry.refusal(answer, `the manifest of ${repository}`, signal);
          discard(answer);
          const kept = headerOf(answer, "docker-content-digest");
          if (kept !== undefined && kept !== digest) {
            throw new AgentError(
              "E_DIGEST",
              `${reference.host} keeps ${repository}:${named?.tag ?? digest} as ${kept}, not ${digest}`,
            );
          }
        },
        { signal },
      );
    },
    finish: () => Promise.resolve(),
    close: () => registry.close(),
  };
}

function counting(tell: TransferOptions["onProgress"]): Transform {
  let bytes = 0;
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      tell?.((bytes += chunk.length));
      done(null, chunk);
    },
  });
}
