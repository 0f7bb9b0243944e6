import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { request } from "node:http";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import type { Entry } from "../../../agent/driver/entry.ts";
import { SharedObjects } from "../../../agent/driver/shared-objects.ts";
import { createExporter } from "../../../agent/session/exporter.ts";
import { http } from "../../../net/http/interface.ts";
import { macInTable, macOf, parseMac } from "../../../net/neighbours.ts";
import { tftp } from "../../../net/tftp/interface.ts";
import { commonBoard, parseBoard, viewOf } from "../../../net/views.ts";
import { freePort } from "../../sim/agent.ts";
import { download, folderWith } from "../../sim/tftp.ts";

const tftpType = "jumpstarter_driver_tftp.driver.Tftp";
const httpType = "jumpstarter_driver_http.driver.HttpServer";
const view = (name: string, ...boards: string[]) => ({ name, boards: boards.map(parseBoard) });

test("a board sees the view that names it most precisely, and else the one that names nobody", () => {
  const everybody = view("everybody");
  const lab = view("lab", "10.0.0.0/8", "fd00::/8");
  const shelf = view("shelf", "10.1.0.0/16");
  const board = view("board", "10.1.0.7", "fd00::7");
  const card = view("card", "02-00-00-00-00-07");
  const views = [everybody, lab, shelf, board, card];
  const seen = (address: string, mac?: string) => {
    const [one, other] = [views, views.toReversed()].map((order) => viewOf(order, address, () => mac)?.name);
    assert.equal(one, other, "in whatever order they came");
    return one;
  };
  assert.equal(seen("192.0.2.1"), "everybody");
  assert.equal(seen("10.2.0.7"), "lab");
  assert.equal(seen("10.1.0.8"), "shelf");
  assert.equal(seen("10.1.0.7"), "board");
  assert.equal(seen("fd00::7"), "board");
  assert.equal(seen("fd01::7%eth0"), "lab");
  assert.equal(seen("10.1.0.7", "02:00:00:00:00:07"), "card");
  assert.equal(seen("192.0.2.1", "02:00:00:00:00:07"), "card");
  assert.equal(
    viewOf([lab, board], "192.0.2.1", () => undefined),
    undefined,
  );
});

test("nobody's MAC address is looked up where no view names one", () => {
  const asked: string[] = [];
  const mac = (address: string) => void asked.push(address);
  viewOf([view("a", "10.0.0.1"), view("b")], "10.0.0.1", mac as () => undefined);
  assert.deepEqual(asked, []);
  viewOf([view("a", "02:00:00:00:00:01", "02:00:00:00:00:02"), view("b")], "10.0.0.1", mac as () => undefined);
  assert.deepEqual(asked, ["10.0.0.1"]);
});

test("what is no board is refused", () => {
  for (const text of ["", "board", "10.0.0.256", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/8/8", "::/129", "02:00:00"]) {
    assert.throws(() => parseBoard(text), { code: "E_CONFIG", message: /is not a board/ }, text);
  }
});

test("two views that claim the same board are told apart from two that do not", () => {
  assert.equal(commonBoard(view("a"), view("b")), "every board");
  assert.equal(commonBoard(view("a"), view("b", "10.0.0.1")), undefined);
  assert.equal(commonBoard(view("a", "10.0.0.1"), view("b", "10.0.0.0/24")), undefined);
  assert.equal(commonBoard(view("a", "10.0.0.1"), view("b", "10.0.0.1/32")), "10.0.0.1/32");
  assert.equal(commonBoard(view("a", "020000000001"), view("b", "02:00:00:00:00:01")), "02:00:00:00:00:01");
});

test("MAC addresses come from the kernel's table, or from the IPv6 address that is made of one", async () => {
  const table = [
    "IP address       HW type     Flags       HW address            Mask     Device",
    "10.0.0.7         0x1         0x2         02:00:00:00:00:07     *        eth0",
    "10.0.0.8         0x1         0x0         00:00:00:00:00:00     *        eth0",
  ].join("\n");
  assert.equal(macInTable(table, "10.0.0.7"), "02:00:00:00:00:07");
  assert.equal(macInTable(table, "10.0.0.8"), undefined);
  assert.equal(macInTable(table, "10.0.0.9"), undefined);
  assert.equal(macOf("fe80::5054:ff:fe12:3456%tap0"), "52:54:00:12:34:56");
  assert.equal(macOf("fe80::1"), undefined);
  assert.equal(macOf("127.0.0.1"), undefined);
  assert.equal(parseMac("0200.0000.0007"), undefined);
  // The heading that macInTable passes over is the kernel's.
  assert.match(await readFile("/proc/net/arp", "latin1"), /^IP address +HW type/);
});

/** Exporters of one process: they share its ports. */
function rack(t: TestContext) {
  const onHost = new SharedObjects<object>();
  return async (name: string, drivers: Record<string, Entry>) => {
    const exporter = await createExporter({ name, export: drivers, onHost });
    t.after(() => exporter.close());
    const messages: string[] = [];
    exporter.logs.subscribe(({ severity, message }) => messages.push(`${severity} ${message}`));
    return { exporter, messages };
  };
}

/** An address of the loopback network for each board. */
const [ann, bob, carol] = ["127.0.1.1", "127.0.1.2", "127.0.1.3"];

test("two exporters share port and address, and each board sees the files of its own only", async (t) => {
  const shared = await folderWith(t, { common: "for all", file: "not this one" });
  const roots = { a: await folderWith(t, { file: "a", onlyA: "a" }), b: await folderWith(t, { file: "b" }) };
  const make = rack(t);
  const ports = { tftp: await freePort(), http: await freePort() };
  const exporterOf = async (name: "a" | "b", boards: string[]) => {
    const config = { root_dir: roots[name], global_root_dir: shared, host: "127.0.0.1", boards };
    return await make(name, {
      tftp: { type: tftpType, config: { ...config, port: ports.tftp } },
      http: { type: httpType, config: { ...config, port: ports.http } },
    });
  };
  const { exporter: a, messages } = await exporterOf("a", [ann]);
  const { exporter: b } = await exporterOf("b", [`${bob}/32`]);
  for (const exporter of [a, b]) {
    await exporter.calls("tftp", tftp).start();
    await exporter.calls("http", http).start();
  }
  const read = async (from: string, filename: string) => {
    const byTftp = await download(t, { port: ports.tftp, from, filename }).then(String, String);
    const byHttp = await fetchFrom(from, `http://127.0.0.1:${ports.http}/${filename}`);
    return [byTftp, byHttp];
  };
  assert.deepEqual(await read(ann, "file"), ["a", "200 a"]);
  assert.deepEqual(await read(bob, "file"), ["b", "200 b"]);
  assert.deepEqual(await read(ann, "common"), ["for all", "200 for all"]);
  assert.deepEqual(await read(ann, "onlyA"), ["a", "200 a"]);
  assert.deepEqual(await read(bob, "onlyA"), ["Error: ERROR 1 File not found", "404 404 Not Found\n"]);
  const [byTftp, byHttp] = await read(carol, "file");
  assert.equal(byTftp, "Error: ERROR 2 Nothing is served to this address");
  assert.match(byHttp ?? "", /hang up|ECONNRESET/);
  assert.ok(messages.some((message) => message.startsWith('INFO TFTP "file" to 127.0.1.1:')));
  assert.ok(!messages.some((message) => message.includes("127.0.1.2")), "b's boards are no business of a");

  // One that stops leaves the other alone; the last one frees the port.
  await a.calls("tftp", tftp).stop();
  await a.calls("http", http).stop();
  assert.deepEqual((await read(ann, "file"))[0], "Error: ERROR 2 Nothing is served to this address");
  assert.deepEqual(await read(bob, "file"), ["b", "200 b"]);
  await b.close();
  const { exporter: c } = await make("c", {
    tftp: { type: tftpType, config: { root_dir: join(roots.b), host: "127.0.0.1", port: ports.tftp } },
  });
  await c.calls("tftp", tftp).start();
  assert.equal(String(await download(t, { port: ports.tftp, filename: "file" })), "b");
});

test("exporters on different addresses of one port each answer at their own", async (t) => {
  const make = rack(t);
  const port = await freePort();
  const addresses = { a: "127.0.0.1", b: "127.0.0.2" };
  const calls = new Map<string, { start(): Promise<null>; stop(): Promise<null> }>();
  for (const [name, host] of Object.entries(addresses)) {
    const config = { root_dir: await folderWith(t, { file: name }), host, port };
    const { exporter } = await make(name, { tftp: { type: tftpType, config } });
    calls.set(name, exporter.calls("tftp", tftp));
    await calls.get(name)?.start();
  }
  const read = async (address: string) => String(await download(t, { port, address, filename: "file" }));
  assert.deepEqual([await read(addresses.a), await read(addresses.b)], ["a", "b"]);
  await calls.get("a")?.stop();
  assert.equal(await read(addresses.b), "b");
});

test("a second exporter that claims the same boards is told who has them", async (t) => {
  const root_dir = await folderWith(t, { file: "a" });
  const make = rack(t);
  const port = await freePort();
  const config = { root_dir, host: ["127.0.0.1"], port };
  const { exporter: a } = await make("a", { tftp: { type: tftpType, config } });
  const { exporter: b } = await make("b", { tftp: { type: tftpType, config: { ...config, host: "0.0.0.0" } } });
  await a.calls("tftp", tftp).start();
  await assert.rejects(async () => await b.calls("tftp", tftp).start(), {
    code: "E_IO",
    message: `Failed to start TFTP server: port already in use: 127.0.0.1:${port} shows tftp of a to every board`,
    hint: /boards/,
  });
  assert.equal(String(await download(t, { port, filename: "file" })), "a");
  await a.calls("tftp", tftp).stop();
  await b.calls("tftp", tftp).start();
  assert.equal(String(await download(t, { port, filename: "file" })), "a");
});

test("starts and stops of many exporters at one port end with every port free", async (t) => {
  const root_dir = await folderWith(t, { file: "x" });
  const make = rack(t);
  const port = await freePort();
  const exporters = await Promise.all(
    Array.from({ length: 12 }, async (_, index) => {
      const config = { root_dir, host: "127.0.0.1", port, boards: `127.0.2.${index + 1}` };
      return (await make(`e${index}`, { tftp: { type: tftpType, config } })).exporter.calls("tftp", tftp);
    }),
  );
  for (let round = 0; round < 10; round += 1) {
    await Promise.all(exporters.map((calls, index) => ((index + round) % 3 === 0 ? calls.stop() : calls.start())));
    const served = await download(t, { port, from: `127.0.2.${2}`, filename: "file" }).then(String, String);
    assert.match(served, (1 + round) % 3 === 0 ? /ERROR 2/ : /^x$/);
  }
  await Promise.all(exporters.map((calls) => calls.stop()));
  await make("last", { tftp: { type: tftpType, config: { root_dir, host: "127.0.0.1", port } } }).then(
    async ({ exporter }) => await exporter.calls("tftp", tftp).start(),
  );
});

async function fetchFrom(localAddress: string, url: string): Promise<string> {
  return await new Promise((resolve) => {
    request(url, { localAddress, agent: false }, (response) => {
      let text = `${response.statusCode} `;
      response.on("data", (chunk: Buffer) => (text += chunk.toString()));
      response.on("end", () => resolve(text));
    })
      .on("error", (error) => resolve(String(error)))
      .end();
  });
}
