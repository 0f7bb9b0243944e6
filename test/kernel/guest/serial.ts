// Consoles on USB adapters that are pulled out, and one whose line is bad.
import assert from "node:assert/strict";
import { once } from "node:events";
import { readdirSync } from "node:fs";
import { mkdtemp, open, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { connect } from "../../../agent/client/connect.ts";
import type { RemoteNode } from "../../../agent/client/node.ts";
import { serialPort } from "../../../boards/serial/interface.ts";
import { startAgent } from "../../sim/agent.ts";
import { cdcAcm } from "../../sim/usbip/cdc-acm.ts";
import { plugUsb } from "../../sim/usbip/plug.ts";
import { exporter } from "./lib/exporter.ts";
import { serialAdapter } from "./lib/plug.ts";
import { modprobe, waitFor } from "./lib/system.ts";

const pySerial = (config: Record<string, unknown>) => ({ type: "jumpstarter_driver_pyserial.driver.PySerial", config });

async function folder(t: TestContext): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), "jmp-agent-"));
  t.after(() => rm(path, { recursive: true, force: true }));
  return path;
}

async function recorded(node: RemoteNode): Promise<string> {
  let text = "";
  for await (const item of node.as(serialPort).log()) text += item.text ?? `[${item.mark?.mark}]`;
  return text;
}

test("an adapter is pulled out of an open console: its reader is told, the record is whole, and it is back within a second", async (t) => {
  const adapter = await serialAdapter(t, "CON42");
  await adapter.plug();
  const board = await open(adapter.board, "r+");
  t.after(() => board.close());
  const url = "usb://0403:6001?serial=CON42";
  const served = await exporter(t, { serial: pySerial({ url, record: { directory: await folder(t) } }) });
  const node = served.node("serial");
  const serial = node.as(serialPort);
  const state = async () => (await serial.status()).record?.state;
  await waitFor("it records", async () => (await state()) === "recording");
  const stream = await serial.connect();
  let heard = "";
  stream.on("data", (chunk: Buffer) => (heard += chunk.toString()));
  const over = assert.rejects(once(stream, "end"), /^AgentError: serial port usb:.*CON42 is gone/);
  const lines = Array.from({ length: 300 }, (_, number) => `line ${number}\r\n`).join("");
  await board.write(lines);
  await waitFor("all is heard", () => heard.endsWith("line 299\r\n"));
  assert.equal(heard, lines);
  assert.match((await serial.status()).usb ?? "", /^ttyUSB\d \(0403:6001 .*, serial CON42, at \d-\d\)$/);
  assert.equal((await serial.status()).line_errors?.["frame"], 0);

  // In the middle of a line.
  await board.write("and the last wor");
  await waitFor("it is heard", () => heard.endsWith("wor"));
  await adapter.unplug();
  await over;
  await waitFor("its driver is offline", async () =>
    serial.status().then(
      () => false,
      (error: Error) => error.message.includes("no serial port is usb://0403:6001?serial=CON42"),
    ),
  );

  await adapter.plug();
  // How long the kernel takes to find it is not ours to answer for.
  await waitFor("the kernel has it again", () =>
    readdirSync("/sys/class/tty").some((name) => name.startsWith("ttyUSB")),
  );
  const backMs = performance.now();
  await waitFor("it records again", async () => (await state().catch(() => undefined)) === "recording");
  const tookMs = performance.now() - backMs;
  t.diagnostic(`back after ${tookMs.toFixed(0)} ms`);
  // A second is what it may take on a host; an emulated one reads its sysfs ten times slower, with half a core twenty.
  assert.ok(tookMs < 10_000, `${tookMs} ms`);
  await board.write("back again\r\n");
  await waitFor("it is recorded", async () => (await recorded(node)).endsWith("back again\r\n"));
  const told = (await recorded(node)).replace(/(\[port\])+/g, "[port]");
  assert.equal(told, `[start][port]${lines}and the last wor[port]back again\r\n`);
  await serial.send_break(10);
});

test("breaks go out, and line errors are counted and recorded", async (t) => {
  await modprobe("vhci_hcd");
  await modprobe("cdc_acm");
  const port = cdcAcm({ receive: () => {} });
  await plugUsb(t, { vendorId: 0x2b23, productId: 0x1012, serial: "BAD1", functions: [port] });
  // In a process of its own: the kernel asks the device, which is in this one, while a call is under way.
  const agent = await startAgent(t, {
    serial: pySerial({ url: "usb://?serial=BAD1", record: { directory: await folder(t) } }),
  });
  const client = await connect({ host: agent.socketPath });
  t.after(() => client.close());
  const node = client.root.find("serial");
  assert.ok(node);
  const serial = node.as(serialPort);
  await waitFor("it records", async () => (await serial.status()).record?.state === "recording");
  assert.equal(port.line.dtr, true);
  await serial.send_break(20);
  assert.equal(port.line.breaks, 1);

  const [parity, framing] = [0x20, 0x10];
  port.notify(parity | 0x3);
  port.notify(framing | 0x3);
  port.notify(framing | 0x3);
  await waitFor("they are counted", async () => (await serial.status()).line_errors?.["frame"] === 2);
  assert.equal((await serial.status()).line_errors?.["parity"], 1);
  await waitFor("they are recorded", async () => (await recorded(node)).includes("[line-errors]"));
});
