import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { promisify } from "node:util";
import type { Entry } from "../../../agent/driver/entry.ts";
import { createExporter } from "../../../agent/session/exporter.ts";
import { http } from "../../../net/http/interface.ts";
import { tftp } from "../../../net/tftp/interface.ts";
import { createAuthority } from "../../sim/certificates.ts";
import { download, folderWith } from "../../sim/tftp.ts";

const execute = promisify(execFile);

const tftpType = "jumpstarter_driver_tftp.driver.Tftp";
const httpType = "jumpstarter_driver_http.driver.HttpServer";

async function exporterOf(t: TestContext, drivers: Record<string, Entry>) {
  const exporter = await createExporter({ name: "test", export: drivers });
  t.after(() => exporter.close());
  const messages: string[] = [];
  exporter.logs.subscribe(({ severity, message }) => messages.push(`${severity} ${message}`));
  return { exporter, messages };
}

test("Tftp: start binds, stop frees, both as often as one likes", async (t) => {
  const root = join(await folderWith(t), "made", "by", "the", "driver");
  const { exporter, messages } = await exporterOf(t, {
    tftp: { type: tftpType, config: { root_dir: root, host: "127.0.0.1", port: 0 } },
    other: { type: "jumpstarter_driver_tftp.driver.TftpServer", config: { root_dir: root, host: ["127.0.0.1"] } },
  });
  assert.ok(existsSync(root));
  await writeFile(join(root, "file"), "content");
  const calls = exporter.calls("tftp", tftp);
  assert.equal(await calls.get_host(), "127.0.0.1");
  assert.equal(await calls.get_port(), 0);
  assert.equal(await exporter.calls("other", tftp).get_port(), 69);
  assert.equal(await calls.stop(), null);
  assert.ok(messages.includes("WARNING stop called - TFTP server is not running"));

  await Promise.all([calls.start(), calls.start(), calls.start()]);
  await calls.start();
  assert.ok(messages.includes("WARNING TFTP server is already running"));
  const port = await calls.get_port();
  assert.ok(port > 0);
  assert.equal((await download(t, { port, filename: "file" })).toString(), "content");
  await calls.stop();
  assert.equal(await calls.get_port(), 0);
});

test("HttpServer: the URL names the bound port, and the configured one while stopped", async (t) => {
  const root = await folderWith(t, { "image.raw.gz": "gz" });
  const { exporter, messages } = await exporterOf(t, {
    free: { type: httpType, config: { root_dir: root, host: "127.0.0.1", port: 0, timeout: 60 } },
    fixed: { type: httpType, config: { root_dir: root, host: "::1", port: "18080" } },
    told: { type: httpType, config: { root_dir: root, host: "0.0.0.0", advertise: "10.0.0.7", port: 0 } },
    own: { type: httpType, config: { root_dir: root, host: null } },
  });
  const free = exporter.calls("free", http);
  assert.equal(await free.get_url(), "http://127.0.0.1:0");
  assert.equal(await free.get_port(), 0);
  await Promise.all([free.start(), free.start()]);
  const url = await free.get_url();
  assert.equal(url, `http://127.0.0.1:${await free.get_port()}`);
  assert.equal(await (await fetch(`${url}/image.raw.gz`)).text(), "gz");
  await free.stop();
  await free.stop();
  assert.ok(messages.includes("WARNING HTTP server is not running."));
  await assert.rejects(fetch(url));

  assert.equal(await exporter.calls("fixed", http).get_url(), "http://[::1]:18080");
  const told = exporter.calls("told", http);
  await told.start();
  assert.equal(await told.get_url(), `http://10.0.0.7:${await told.get_port()}`);
  // The host's own address, whatever it is here.
  assert.match(await exporter.calls("own", http).get_url(), /^http:\/\/[\d.]+:8080$/);
});

test("start and stop that overlap end as the last one wants", async (t) => {
  const root = await folderWith(t);
  const { exporter } = await exporterOf(t, {
    tftp: { type: tftpType, config: { root_dir: root, host: "127.0.0.1", port: 0 } },
    http: { type: httpType, config: { root_dir: root, host: "127.0.0.1", port: 0 } },
  });
  for (const calls of [exporter.calls("tftp", tftp), exporter.calls("http", http)]) {
    for (let round = 0; round < 20; round += 1) {
      const starting = calls.start().catch((error: unknown) => String(error));
      if (round % 2 === 0) await Promise.resolve();
      await calls.stop();
      const result = await starting;
      if (result !== null) assert.match(String(result), /was stopped while it started/);
      if ((await calls.get_port()) !== 0) await calls.stop();
      await calls.start();
      assert.ok((await calls.get_port()) > 0);
      await calls.stop();
      assert.equal(await calls.get_port(), 0);
    }
    const [first, , last] = await Promise.allSettled([calls.start(), calls.stop(), calls.start()]);
    assert.equal(last.status, "fulfilled", `after a first that was ${first.status}`);
    assert.ok((await calls.get_port()) > 0);
  }
});

test("a port that is taken fails the start, with the port, and not the exporter", async (t) => {
  const root = await folderWith(t);
  const { exporter: first } = await exporterOf(t, {
    tftp: { type: tftpType, config: { root_dir: root, host: "127.0.0.1", port: 0 } },
    http: { type: httpType, config: { root_dir: root, host: "127.0.0.1", port: 0 } },
  });
  await first.calls("tftp", tftp).start();
  await first.calls("http", http).start();
  const [udp, tcp] = [await first.calls("tftp", tftp).get_port(), await first.calls("http", http).get_port()];
  const { exporter: second } = await exporterOf(t, {
    tftp: { type: tftpType, config: { root_dir: root, host: "127.0.0.1", port: udp } },
    http: { type: httpType, config: { root_dir: root, host: "127.0.0.1", port: tcp } },
  });
  await assert.rejects(second.calls("tftp", tftp).start(), {
    code: "E_IO",
    message: `Failed to start TFTP server: port already in use: 127.0.0.1:${udp}`,
  });
  await assert.rejects(second.calls("http", http).start(), {
    code: "E_IO",
    message: `Failed to start HTTP server: port already in use: 127.0.0.1:${tcp}`,
  });
  // The end of the first session frees both.
  await first.close();
  await second.calls("tftp", tftp).start();
  await second.calls("http", http).start();
});

test("HttpServer: https with certificate and key, and both or none", async (t) => {
  const root = await folderWith(t, { file: "content" });
  const authority = await createAuthority(join(root, "ca"));
  const { certificate, key } = await authority.serverCertificate();
  const tls = { tls_cert: join(root, "cert.pem"), tls_key: join(root, "key.pem") };
  await writeFile(tls.tls_cert, certificate);
  const config = { root_dir: root, host: "127.0.0.1", port: 0 };
  const { exporter } = await exporterOf(t, { http: { type: httpType, config: { ...config, ...tls } } });
  const calls = exporter.calls("http", http);
  await assert.rejects(calls.start(), {
    code: "E_CONFIG",
    message: /^Failed to start HTTP server: TLS with .*key\.pem/,
  });
  await writeFile(tls.tls_key, key);
  await calls.start();
  const url = await calls.get_url();
  assert.equal(url, `https://127.0.0.1:${await calls.get_port()}`);
  const { stdout } = await execute("curl", ["-sSf", "--cacert", join(root, "ca", "ca.pem"), `${url}/file`]);
  assert.equal(stdout, "content");
  const { tls_cert } = tls;
  await assert.rejects(exporterOf(t, { http: { type: httpType, config: { ...config, tls_cert } } }), /config\.tls_key/);
});

test("what boards leave over HTTP and TFTP lands in the configured folder", async (t) => {
  const root = await folderWith(t);
  const config = { root_dir: root, host: "127.0.0.1", port: 0 };
  const uploads = { dir: join(root, "made", "logs"), max_bytes: "1000" };
  const { exporter } = await exporterOf(t, {
    http: { type: httpType, config: { ...config, uploads } },
    tftp: { type: tftpType, config: { ...config, uploads } },
    none: { type: httpType, config },
  });
  const put = async (name: "http" | "none", file: string) => {
    const calls = exporter.calls(name, http);
    await calls.start();
    return (await fetch(`${await calls.get_url()}/uploads/${file}`, { method: "PUT", body: "a log" })).status;
  };
  assert.equal(await put("http", "by-http"), 201);
  assert.equal(await put("none", "by-http"), 405);
  const calls = exporter.calls("tftp", tftp);
  await calls.start();
  await writeFile(join(root, "log"), "a log");
  const words = [
    "-m",
    "binary",
    "127.0.0.1",
    String(await calls.get_port()),
    "-c",
    "put",
    join(root, "log"),
    "by-tftp",
  ];
  await execute("tftp", words);
  for (const name of ["by-http", "by-tftp"]) assert.equal(await readFile(join(uploads.dir, name), "utf8"), "a log");
});

test("what a config may not say is told with its path", async (t) => {
  const root = await folderWith(t);
  for (const [config, problem] of [
    [{ port: 70_000 }, /config\.port/],
    [{ port: "abc" }, /config\.port/],
    [{ window_limit: 0 }, /config\.window_limit/],
    [{ host: [] }, /config\.host/],
    [{ no_such_key: 1 }, /no_such_key/],
  ] as const) {
    await assert.rejects(exporterOf(t, { tftp: { type: tftpType, config: { root_dir: root, ...config } } }), problem);
  }
});

test("the storage child lies on the served folder and takes the place of a configured one", async (t) => {
  const root = await folderWith(t);
  await mkdir(join(root, "sub"));
  const { exporter } = await exporterOf(t, {
    tftp: {
      type: tftpType,
      config: { root_dir: root },
      children: { storage: { type: "jumpstarter_driver_power.driver.MockPower" } },
    },
  });
  const [storage] = exporter.tree.drivers.filter((driver) => driver.planned.path === "tftp.storage");
  assert.equal(storage?.planned.type, "jumpstarter_driver_opendal.driver.Opendal");
  assert.deepEqual(storage.planned.config["kwargs"], { root });
  assert.equal(storage.planned.config["remove_created_on_close"], true);
});
