import assert from "node:assert/strict";
import { Duplex, PassThrough } from "node:stream";
import { test } from "node:test";
import { createExporter } from "../../../agent/session/exporter.ts";
import { enterConsole, watchWrites } from "../../../boards/dutlink/console-mode.ts";
import { ModeWatch, parseMeter, powerRequest, readRequest, replyText } from "../../../boards/dutlink/protocol.ts";
import { dutlink, type DutlinkSim } from "../../sim/usbip/dutlink.ts";
import { InEndpoint, OutEndpoint } from "../../sim/usbip/device.ts";
import { dutlinkPower } from "../../../boards/dutlink/interface.ts";

const dutlinkType = "jumpstarter_driver_dutlink.driver.Dutlink";

test("the meter's text is read by its units, in any order", () => {
  assert.deepEqual(parseMeter("4.05W 5.00V 0.81A"), { voltage: 5, current: 0.81 });
  assert.deepEqual(parseMeter("0.81a 5.00v"), { voltage: 5, current: 0.81 });
  assert.deepEqual(parseMeter("-0.02A"), { voltage: 0, current: -0.02 });
  assert.deepEqual(parseMeter(""), { voltage: 0, current: 0 });
  assert.equal(parseMeter("1.2.3V"), undefined);
  assert.equal(parseMeter("NaNV"), undefined);
  assert.equal(replyText(Buffer.from("1.00V \0garbage")), "1.00V");
});

test("requests are those of the firmware", () => {
  assert.deepEqual(powerRequest("rescue", 3), { requestType: 0x41, request: 1, value: 4, index: 3 });
  assert.deepEqual(readRequest("power", 2), { requestType: 0xc1, request: 4, value: 1, index: 2 });
});

test("what clients write tells whether the console leads to the shell", () => {
  const watch = new ModeWatch();
  const wrote = (text: string) => watch.wrote(Buffer.from(text, "latin1"));
  watch.mode = "console";
  wrote("\x02\x02\x02\x02x\x02console\r");
  assert.equal(watch.mode, "console", "not five in a row");
  wrote("\x02\x02\x02");
  wrote("\x02\x02");
  assert.equal(watch.mode, "shell", "also in pieces");
  wrote("about\rcons");
  assert.equal(watch.mode, "shell");
  wrote("ole\r\n");
  assert.equal(watch.mode, "console");
});

/** The console of a simulated board, as a stream. */
function consoleOf({ board }: DutlinkSim): Duplex {
  const endpoints = board.functions.flatMap((part) => part.interfaces(0)).flatMap((one) => one.endpoints);
  const fromHost = endpoints.find((one) => one instanceof OutEndpoint);
  const toHost = endpoints.find((one) => one instanceof InEndpoint && one.type === "bulk");
  assert.ok(fromHost instanceof OutEndpoint && toHost instanceof InEndpoint);
  const stream = new Duplex({
    read: () => {},
    write(chunk: Buffer, _encoding, done) {
      fromHost.receive(chunk);
      done();
    },
  });
  toHost.onReady(() => stream.push(toHost.take(1_024)));
  return stream;
}

test("a board in its shell is led to the device, which gets nothing of it", async () => {
  const sim = dutlink("1");
  await enterConsole(consoleOf(sim), AbortSignal.timeout(5_000));
  assert.equal(sim.state.mode, "console");
  assert.equal(sim.state.toDevice, "");
});

test("a board in console mode stays so, and the device gets the escape and nothing else", async () => {
  const sim = dutlink("1");
  sim.state.mode = "console";
  await enterConsole(consoleOf(sim), AbortSignal.timeout(5_000));
  assert.equal(sim.state.mode, "console");
  assert.equal(sim.state.toDevice, "\x02".repeat(5));
});

test("a board whose shell does not answer is given up, and a caller that leaves is not kept", async () => {
  const silent = () => new Duplex({ read: () => {}, write: (_chunk, _encoding, done) => done() });
  await assert.rejects(enterConsole(silent(), AbortSignal.timeout(5_000)), { code: "E_TIMEOUT" });
  const cancel = new AbortController();
  const entering = enterConsole(silent(), cancel.signal);
  cancel.abort(new Error("enough"));
  await assert.rejects(entering, /enough/);
});

test("watching what is written changes nothing of it", async () => {
  const stream = new PassThrough();
  const seen: string[] = [];
  watchWrites(stream, (bytes) => seen.push(Buffer.from(bytes).toString()));
  stream.write("one");
  stream.end("two");
  assert.equal((await stream.toArray()).join(""), "onetwo");
  assert.deepEqual(seen, ["one", "two"]);
});

test("a board brings power, storage and console along, offline while it is missing", async (t) => {
  const exporter = await createExporter({
    name: "test",
    export: {
      own: { type: dutlinkType, config: { serial: "nobody", storage_device: "/dev/null", storage_leeway: 1 } },
      other: {
        type: dutlinkType,
        config: { serial: "nobody", storage_device: "/dev/null", alternate_console: "/dev/nowhere", baudrate: 9600 },
      },
    },
  });
  t.after(() => exporter.close());
  assert.deepEqual(
    exporter.tree.drivers.map(({ planned, offlineReason }) => [
      planned.path,
      offlineReason?.split(":")[0]?.slice(0, 52),
    ]),
    ["own", "other"]
      .flatMap((board) => [
        ...["power", "storage"].map((name) => [
          `${board}.${name}`,
          "failed to find dutlink device with serial nobody (checked 2b23:1012)".slice(0, 52),
        ]),
        [
          `${board}.console`,
          board === "own"
            ? "failed to find dutlink device with serial nobody (checked 2b23:1012)".slice(0, 52)
            : "serial port /dev/nowhere is not usable",
        ],
        [board, undefined],
      ])
      .concat([["", undefined]]),
  );
  await assert.rejects(exporter.calls("own.power", dutlinkPower).on(), { code: "E_DEVICE_OFFLINE" });
});
