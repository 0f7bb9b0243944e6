import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { rename, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { promisify } from "node:util";
import { LogBus } from "../../../agent/driver/log.ts";
import { TlsFiles } from "../../../agent/sys/tls-files.ts";
import { createAuthority } from "../../sim/certificates.ts";
import { startHttp } from "../../sim/http.ts";
import { eventually } from "../../sim/rig.ts";
import { folderWith } from "../../sim/tftp.ts";

const execute = promisify(execFile);

async function certificates(t: TestContext) {
  const directory = await folderWith(t);
  const authority = await createAuthority(directory);
  const paths = { cert: join(directory, "cert.pem"), key: join(directory, "key.pem") };
  const bus = new LogBus();
  const messages: string[] = [];
  bus.subscribe(({ message }) => messages.push(message));
  const tls = new TlsFiles(paths, bus.logger({ source: "driver", logger: "tls" }), { checkMs: 20 });
  /** As tools that renew certificates do: the new file takes the place of the old one. */
  const put = async (which: "cert" | "key", content: string) => {
    await writeFile(`${paths[which]}.new`, content);
    await rename(`${paths[which]}.new`, paths[which]);
  };
  return { authority, ca: join(directory, "ca.pem"), tls, put, messages };
}

test("HTTPS: real clients fetch, resume and upload, and who speaks plain HTTP gets nothing", async (t) => {
  const { authority, ca, tls, put } = await certificates(t);
  const { certificate, key } = await authority.serverCertificate();
  await put("cert", certificate);
  await put("key", key);
  const folder = await folderWith(t);
  const content = "0123456789".repeat(100_000);
  const root = await folderWith(t, { file: content });
  const server = await startHttp(t, root, { tls, uploads: { folder, maxBytes: 2 << 20 } });
  const url = `https://127.0.0.1:${server.port}`;
  const curl = async (...words: string[]) =>
    (await execute("curl", ["-sSf", "--cacert", ca, ...words], { maxBuffer: 2 << 20 })).stdout;
  assert.equal(await curl(`${url}/file`), content);
  assert.equal(await curl("-r", "10-19", `${url}/file`), "0123456789");
  assert.equal(
    await curl("-T", join(root, "file"), "-w", "%{http_code}", "-o", "/dev/null", `${url}/uploads/log`),
    "201",
  );
  assert.equal(
    (await execute("wget", ["-qO-", `--ca-certificate=${ca}`, `${url}/file`], { maxBuffer: 2 << 20 })).stdout,
    content,
  );
  await assert.rejects(execute("curl", ["-sSf", `${url}/file`]), /certificate/);
  await assert.rejects(execute("curl", ["-sSf", `http://127.0.0.1:${server.port}/file`]));
});

test("a renewed certificate is taken over; one that is half there, or wrong, is not", async (t) => {
  const { authority, tls, put, messages } = await certificates(t);
  const [first, second] = [await authority.serverCertificate(["first"]), await authority.serverCertificate(["second"])];
  await put("cert", first.certificate);
  await put("key", first.key);
  const server = await startHttp(t, await folderWith(t), { tls });
  const subject = async () => {
    const words = ["s_client", "-connect", `127.0.0.1:${server.port}`];
    const asked = execute("openssl", words);
    asked.child.stdin?.end();
    return /subject=CN = (\S+)/.exec((await asked).stdout)?.[1];
  };
  assert.equal(await subject(), "first");
  await put("cert", second.certificate);
  await eventually("the mismatch is said", () =>
    messages.some((text) => text.includes("the former certificate serves on")),
  );
  assert.equal(await subject(), "first");
  await put("key", second.key);
  await eventually("it is renewed", () => messages.some((text) => text.includes("was renewed")));
  assert.equal(await subject(), "second");
  await put("cert", "nonsense");
  await eventually("the nonsense is said", () => messages.length >= 3);
  // Another view of the port does not read what is wrong either.
  await new Promise((resolve) => setTimeout(resolve, 100));
  assert.equal(await subject(), "second");
  assert.equal(messages.length, 3, messages.join("\n"));
});

test("files that do not serve are refused with what is wrong", async (t) => {
  const { authority, tls, put } = await certificates(t);
  const [one, other] = [await authority.serverCertificate(), await authority.serverCertificate()];
  const root = await folderWith(t);
  const refused = async (problem: RegExp) =>
    await assert.rejects(startHttp(t, root, { tls }), { code: "E_CONFIG", message: problem, hint: /PEM/ });
  await refused(/No such file.*cert\.pem/);
  await put("cert", one.certificate);
  await refused(/No such file.*key\.pem/);
  await put("key", "nonsense");
  await refused(/TLS with .*cert\.pem and .*key\.pem: /);
  await put("key", other.key);
  await refused(/key values mismatch/);
  await put("key", one.key);
  await startHttp(t, root, { tls });
});

test("a handshake that never comes counts as a connection, and ends", async (t) => {
  const { authority, tls, put } = await certificates(t);
  const { certificate, key } = await authority.serverCertificate();
  await put("cert", certificate);
  await put("key", key);
  const server = await startHttp(t, await folderWith(t), { tls, headersMs: 500, limits: { connectionsPerPeer: 2 } });
  const sockets = [1, 2, 3].map(() =>
    connect(server.port, "127.0.0.1")
      .on("error", () => {})
      .resume(),
  );
  t.after(() => sockets.forEach((socket) => socket.destroy()));
  await eventually("one has made room", () => sockets.some((socket) => socket.closed));
  assert.equal(server.connections, 2);
  await eventually("all have ended", () => server.connections === 0);
});
