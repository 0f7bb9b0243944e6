import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { createServer, type IncomingMessage, type RequestListener } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { buffer } from "node:stream/consumers";
import { describe, test, type TestContext } from "node:test";
import { gzipSync } from "node:zlib";
import { openImageSource, type ImageSourceOptions } from "../../../bundles/flash/image-source.ts";
import { temporaryDirectory, writeFiles } from "../../sim/bundle.ts";

const image = randomBytes(3 * 2 ** 20);
const signal = AbortSignal.timeout(60_000);

async function serve(t: TestContext, listener: RequestListener): Promise<string> {
  const server = createServer(listener).listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

async function read(t: TestContext, text: string, options: Partial<ImageSourceOptions> = {}) {
  const source = await openImageSource(text, { signal, ...options });
  t.after(() => source.close());
  return { source, bytes: await buffer(await source.open(signal)) };
}

describe("an image of a URL", () => {
  test("is continued where the connection broke, from the same version", async (t) => {
    const ranges: string[] = [];
    const url = await serve(t, (request, response) => {
      const from = Number(/\d+/.exec(request.headers.range ?? "0")?.[0]);
      ranges.push(String(request.headers["if-range"]));
      response.writeHead(from > 0 ? 206 : 200, {
        etag: '"one"',
        "content-length": image.length - from,
        ...(from > 0 && { "content-range": `bytes ${from}-${image.length - 1}/${image.length}` }),
      });
      response.write(image.subarray(from, from + 2 ** 20), () => {
        if (from + 2 ** 20 >= image.length) response.end();
        else setTimeout(() => response.destroy(), 20);
      });
    });
    const { source, bytes } = await read(t, `${url}/disk.raw?token=secret`);
    assert.ok(bytes.equals(image));
    assert.equal(source.bytes, image.length);
    assert.equal(source.name, `${url}/disk.raw`);
    assert.ok(ranges.includes('"one"'));
  });

  test("that has changed meanwhile is not put together from two", async (t) => {
    const url = await serve(t, (_request, response) => {
      response.writeHead(200, { etag: '"one"', "content-length": image.length });
      response.write(image.subarray(0, 2 ** 20), () => setTimeout(() => response.destroy(), 20));
    });
    await assert.rejects(read(t, `${url}/disk.raw`), /cannot be continued after \d+ bytes: HTTP 200/);
  });

  test("is asked for with a token and headers, which no other host gets", async (t) => {
    const seen: IncomingMessage["headers"][] = [];
    const other = await serve(t, (request, response) => {
      seen.push(request.headers);
      response.end(image);
    });
    const url = await serve(t, (request, response) => {
      seen.push(request.headers);
      response.writeHead(302, { location: `${other}/disk.raw` }).end();
    });
    const { bytes } = await read(t, `${url}/disk.raw`, { bearerToken: "t0ken", headers: { "x-key": "k3y" } });
    assert.ok(bytes.equals(image));
    assert.deepEqual([seen[0]?.authorization, seen[0]?.["x-key"]], ["Bearer t0ken", "k3y"]);
    assert.deepEqual([seen[1]?.authorization, seen[1]?.["x-key"]], [undefined, undefined]);
  });

  test("is refused with a password in it, and when it is not there", async (t) => {
    const url = await serve(t, (_request, response) => response.writeHead(404).end());
    await assert.rejects(read(t, "https://user:s3cret@host/x"), (error: Error) => !error.message.includes("s3cret"));
    await assert.rejects(read(t, `${url}/x.raw`), { code: "E_FAILED", message: /HTTP 404/ });
  });
});

describe("an image of an OCI layout", () => {
  async function layout(t: TestContext, files: Record<string, Uint8Array>): Promise<string> {
    const [from, to] = [await writeFiles(t, files), await temporaryDirectory(t)];
    const { artifactOf } = await import("../../../bundles/oci/artifact.ts");
    const titled = Object.keys(files).map((title) => ({ title, path: join(from, title) }));
    const { source, digest } = await artifactOf(titled, signal);
    const { bytes } = await source.manifest(digest, signal);
    const blobs = join(to, "blobs/sha256");
    execFileSync("mkdir", ["-p", blobs]);
    const put = (of: string, content: Uint8Array) => writeFile(join(blobs, of.replace("sha256:", "")), content);
    await put(digest, bytes);
    const manifest = JSON.parse(Buffer.from(bytes).toString()) as {
      layers: { digest: string; size: number; annotations: Record<string, string> }[];
    };
    for (const { digest: of, annotations } of manifest.layers) {
      await put(of, files[annotations["org.opencontainers.image.title"] ?? ""] ?? Buffer.alloc(0));
    }
    await writeFile(join(to, "oci-layout"), '{"imageLayoutVersion":"1.0.0"}');
    const mediaType = "application/vnd.oci.image.manifest.v1+json";
    const index = { schemaVersion: 2, manifests: [{ mediaType, digest, size: bytes.length }] };
    await writeFile(join(to, "index.json"), JSON.stringify(index));
    return to;
  }

  test("is the layer that is called like one", async (t) => {
    const folder = await layout(t, { "disk.img.gz": gzipSync(image), "notes.txt": Buffer.from("notes") });
    const { source, bytes } = await read(t, `oci-layout:${folder}`);
    assert.equal(source.encoding, "gzip");
    assert.ok(bytes.equals(gzipSync(image)));
  });

  test("is not guessed", async (t) => {
    const folder = await layout(t, { "a.img": image, "b.img": Buffer.from("b") });
    await assert.rejects(
      read(t, `oci-layout:${folder}`),
      /does not tell which layer is the disk image: a\.img, b\.img/,
    );
  });

  test("with a flipped bit is refused", async (t) => {
    const folder = await layout(t, { "disk.img": image });
    const { createHash } = await import("node:crypto");
    const path = join(folder, "blobs/sha256", createHash("sha256").update(image).digest("hex"));
    const damaged = Buffer.from(image);
    damaged[2_000_000] = (damaged[2_000_000] ?? 0) ^ 1;
    await writeFile(path, damaged);
    await assert.rejects(read(t, `oci-layout:${folder}`), { code: "E_DIGEST" });
  });
});
