// One slave over TCP, UDP and CAN.
import assert from "node:assert/strict";
import { describe, test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { createExporter, type Exporter } from "../../../../agent/session/exporter.ts";
import { can } from "../../../../boards/can/interface.ts";
import { xcp } from "../../../../boards/xcp/interface.ts";
import { serveOnEthernet, XcpSlave, type EthernetSlave, type SlaveOptions } from "../../../sim/xcp-slave.ts";

type Transport = "TCP" | "UDP" | "CAN";

async function start(
  t: TestContext,
  transport: Transport,
  options: SlaveOptions = {},
  config: Record<string, unknown> = {},
) {
  const slave = new XcpSlave(transport === "CAN" ? { ...options, maxCto: 8 } : options);
  const type = "jumpstarter_driver_xcp.driver.Xcp";
  let ethernet: EthernetSlave | undefined;
  let exporter: Exporter;
  if (transport === "CAN") {
    const own = {
      transport,
      can_interface: "virtual",
      channel: "bus",
      can_id_master: 0x8001_2345,
      can_id_slave: 0x556,
    };
    exporter = await createExporter({
      name: "test",
      export: {
        ecu: { type, config: { ...own, ...config } },
        peer: { type: "jumpstarter_driver_can.driver.Can", config: { channel: "bus", interface: "virtual" } },
      },
    });
    const over = new AbortController();
    const served = serveOnCan(exporter, slave, over.signal);
    t.after(async () => {
      over.abort(new Error("over"));
      await served;
    });
  } else {
    ethernet = await serveOnEthernet(t, slave);
    const own = { host: "127.0.0.1", port: ethernet.port, protocol: transport };
    exporter = await createExporter({ name: "test", export: { ecu: { type, config: { ...own, ...config } } } });
  }
  t.after(() => exporter.close());
  const client = (signal?: AbortSignal) => exporter.calls("ecu", xcp, signal === undefined ? {} : { signal });
  return { slave, exporter, ethernet, client: client(), calls: client };
}

async function serveOnCan(exporter: Exporter, slave: XcpSlave, signal: AbortSignal): Promise<void> {
  const still = { timestamp: 0, is_extended_id: false, is_remote_frame: false, is_error_frame: false, channel: null };
  const kind = { ...still, is_fd: false, is_rx: false, bitrate_switch: false, error_state_indicator: false };
  const bus = exporter.calls("peer", can, { signal });
  try {
    for (;;) {
      const [frame] = await bus._recv_internal(null);
      if (frame?.arbitration_id !== 0x12345 || !frame.is_extended_id) continue;
      for (const { afterMs, packet } of slave.respond(Buffer.from(frame.data ?? "", "base64"))) {
        if (afterMs > 0) await sleep(afterMs);
        await bus.send({ ...kind, arbitration_id: 0x556, dlc: packet.length, data: packet.toString("base64") });
      }
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}

const properties = {
  max_cto: 16,
  max_dto: 1024,
  byte_order: "INTEL",
  supports_pgm: true,
  supports_stim: true,
  supports_daq: true,
  supports_calpag: true,
  protocol_layer_version: 1,
  transport_layer_version: 1,
  address_granularity: "BYTE",
  slave_block_mode: false,
};

for (const transport of ["TCP", "UDP", "CAN"] as const) {
  describe(`XCP over ${transport}`, () => {
    test("a slave is connected, asked, read and written", async (t) => {
      const { slave, client } = await start(t, transport);
      await assert.rejects(client.get_status(), { code: "E_FAILED", message: /call connect first/ });
      assert.deepEqual(await client.connect(), { ...properties, max_cto: transport === "CAN" ? 8 : 16 });
      assert.deepEqual(await client.get_id(), { id_type: 1, identifier: "ASAP2 name of this slave" });
      assert.deepEqual(await client.get_id(4), { id_type: 4, identifier: "" });
      const status = await client.get_status();
      assert.deepEqual(
        [status.session_status["daqRunning"], status.session_status["sessionConfiguration"]],
        [true, 0x1234],
      );
      const unlocked = { dbg: false, pgm: false, stim: false, daq: false, calpag: false };
      assert.deepEqual(status.resource_protection, unlocked);
      assert.deepEqual(await client.unlock(), unlocked);
      assert.equal(await client.upload(3, 0x1000), "XCP");
      assert.equal(await client.upload(19, 0x1000), "XCP slave simulator", "more than a packet holds");
      const text = "written in more than one packet, of whatever length";
      await client.download(0x100, text);
      assert.equal(slave.memory.toString("latin1", 0x100, 0x100 + text.length), text);
      await client.set_mta(0x1000, 1);
      assert.equal(slave.packets.at(-1), "f600000100100000");
      const sum = Buffer.from("XCP slave").reduce((all, byte) => (all + byte) & 0xff, 0);
      assert.deepEqual(await client.build_checksum(9), { checksum_type: 1, checksum_value: sum });
      await client.disconnect();
      assert.equal(slave.packets.at(-1), "fe");
      await client.disconnect();
      await client.connect();
    });

    test("an answer that is late, or not there, ends in time and is nobody else's", async (t) => {
      const { slave, client, calls } = await start(t, transport);
      await client.connect();
      slave.troubles.push("pending");
      assert.equal(await client.upload(3, 0x1000), "XCP");
      slave.troubles.push("late");
      const cancelled = new AbortController();
      const outcome = assert.rejects(calls(cancelled.signal).upload(3, 0x1000), /enough/);
      const count = slave.packets.length;
      while (slave.packets.length === count) await sleep(2);
      cancelled.abort(new Error("enough"));
      await outcome;
      // Its answer comes before that to SYNCH, or after it.
      assert.equal(await client.upload(5, 0x1004), "slave");
      assert.ok(slave.packets.includes("fc"));
    });
  });
}

test("data acquisition is set up", async (t) => {
  const { slave, client } = await start(t, "TCP");
  await client.connect();
  const info = await client.get_daq_info();
  assert.deepEqual(info, {
    processor: {
      minDaq: 1,
      maxDaq: 4,
      properties: {
        configType: "DYNAMIC",
        overloadEvent: false,
        overloadMsb: true,
        prescalerSupported: false,
        pidOffSupported: false,
        timestampSupported: true,
        bitStimSupported: false,
        resumeSupported: false,
      },
      keyByte: {
        identificationField: "IDF_REL_ODT_NUMBER_ABS_DAQ_LIST_NUMBER_BYTE",
        addressExtension: "AE_DIFFERENT_WITHIN_ODT",
        optimisationType: "OM_DEFAULT",
      },
    },
    resolution: {
      timestampTicks: 10,
      maxOdtEntrySizeDaq: 8,
      maxOdtEntrySizeStim: 4,
      granularityOdtEntrySizeDaq: 1,
      granularityOdtEntrySizeStim: 2,
      timestampMode: { unit: "DAQ_TIMESTAMP_UNIT_1US", fixed: false, size: "S4" },
    },
    channels: [
      {
        name: "10ms task",
        priority: 5,
        unit: "EVENT_CHANNEL_TIME_UNIT_1MS",
        cycle: 10,
        maxDaqList: 2,
        properties: { consistency: "CONSISTENCY_EVENTCHANNEL", daq: true, stim: false, packed: false },
      },
    ],
  });
  slave.isPlain = true;
  assert.deepEqual((await client.get_daq_info()).channels, []);
  slave.packets.length = 0;
  await client.free_daq();
  await client.alloc_daq(2);
  await client.alloc_odt(1, 3);
  await client.alloc_odt_entry(1, 2, 4);
  await client.set_daq_ptr(1, 2, 3);
  await client.write_daq(0xff, 4, 1, 0x8000_1000);
  await client.set_daq_list_mode(0x10, 1, 0x0102, 1, 9);
  await client.start_stop_daq_list(2, 1);
  await client.start_stop_synch(1);
  assert.deepEqual(slave.packets, [
    "d6",
    "d5000200",
    "d400010003",
    "d30001000204",
    "e20001000203",
    "e1ff040100100080",
    "e010010002010109",
    "de020100",
    "dd01",
  ]);
  await assert.rejects(client.start_stop_daq_list(1, 9), {
    code: "E_FAILED",
    message: "the slave refuses START_STOP_DAQ_LIST: ERR_OUT_OF_RANGE (0x22)",
  });
});

test("flash is programmed, and the slave starts anew", async (t) => {
  const { slave, client } = await start(t, "TCP");
  await client.connect();
  await assert.rejects(client.program_clear(16), { message: /ERR_SEQUENCE \(0x29\)/ });
  assert.deepEqual(await client.program_start(), {
    comm_mode_pgm: 1,
    max_cto_pgm: 12,
    max_bs_pgm: 2,
    min_st_pgm: 3,
    queue_size_pgm: 4,
  });
  await client.program_clear(0x100);
  await client.set_mta(0x4000);
  const code = "twenty-five bytes of code";
  await client.program(code);
  assert.equal(slave.memory.toString("latin1", 0x4000, 0x4000 + code.length), code);
  assert.equal(slave.packets.filter((packet) => packet.startsWith("d0")).length, 3);
  await assert.rejects(client.program("ab", 7), { code: "E_UNSUPPORTED" });
  // Its answer is waited for no longer than 0.5 s, unless the slave asks for more time.
  slave.troubles.push("long pending");
  const began = performance.now();
  await client.program_reset();
  assert.ok(performance.now() - began > 690);
  await assert.rejects(client.get_status(), { message: /call connect first/ });
});

test("Motorola's order and elements of 2 and 4 bytes", async (t) => {
  for (const granularity of [2, 4] as const) {
    const { slave, client } = await start(t, "TCP", { motorola: true, granularity });
    const { byte_order, address_granularity, max_dto } = await client.connect();
    assert.deepEqual(
      [byte_order, address_granularity, max_dto],
      ["MOTOROLA", granularity === 2 ? "WORD" : "DWORD", 1024],
    );
    assert.equal(await client.upload(4 / granularity, 0x1000), "XCP ");
    assert.equal(await client.upload(16 / granularity, 0x1000), "XCP slave simula");
    await client.download(0x200, "0123456789abcdefghijklmn");
    assert.equal(slave.memory.toString("latin1", 0x200, 0x218), "0123456789abcdefghijklmn");
    assert.equal((await client.get_id()).identifier, "ASAP2 name of this slave");
    await assert.rejects(client.download(0, "abc"), { code: "E_INVALID", message: /3 bytes are none/ });
  }
});

test("bytes that are no UTF-8 are refused, unless they travel as latin-1", async (t) => {
  const { slave, client } = await start(t, "TCP");
  const plain = await start(t, "TCP", {}, { bytes_as: "latin-1" });
  slave.memory.set([0x41, 0xff, 0x80], 0x500);
  plain.slave.memory.set([0x41, 0xff, 0x80], 0x500);
  await client.connect();
  await plain.client.connect();
  await assert.rejects(client.upload(3, 0x500), { code: "E_INVALID", message: /bytes that are not UTF-8/ });
  await client.download(0x600, "ä");
  assert.equal(await client.upload(2, 0x600), "ä");
  assert.equal(await plain.client.upload(3, 0x500), "A\xff\x80");
  await plain.client.download(0x600, "\xfe\x01");
  assert.deepEqual([...plain.slave.memory.subarray(0x600, 0x602)], [0xfe, 0x01]);
  await assert.rejects(plain.client.download(0x600, "€"), { code: "E_INVALID" });
});

test("locked resources need a key, which only the Python driver can make", async (t) => {
  const { slave, client } = await start(t, "TCP");
  await client.connect();
  slave.locked = 0x05;
  const text = "locked: calpag, daq; a seed and key library needs pyxcp: use the Python driver";
  await assert.rejects(client.unlock(), { code: "E_UNSUPPORTED", message: text });
  await assert.rejects(client.unlock(["DAQ, pgm"]), { code: "E_UNSUPPORTED", message: /^locked: daq;/ });
  assert.equal((await client.unlock(["pgm"]))["daq"], true);
  await assert.rejects(client.unlock(["everything"]), {
    code: "E_INVALID",
    message: "Invalid resource name 'everything'.",
  });
  await assert.rejects(client.download(0, "a"), { message: "the slave refuses DOWNLOAD: ERR_ACCESS_LOCKED (0x25)" });
});

test("TCP: pieces of one byte, noise, short answers and a slave that goes", async (t) => {
  const { slave, ethernet, client } = await start(t, "TCP");
  assert.ok(ethernet);
  ethernet.crumbles = true;
  await client.connect();
  slave.troubles.push("daq noise");
  assert.equal(await client.upload(3, 0x1000), "XCP");
  slave.troubles.push("short");
  await assert.rejects(client.upload(3, 0x1000), { code: "E_FAILED", message: /SHORT_UPLOAD is too short/ });
  slave.troubles.push("hang up");
  await assert.rejects(client.upload(3, 0x1000), { code: "E_CONNECTION" });
  await assert.rejects(client.upload(3, 0x1000), {
    code: "E_CONNECTION",
    message: /has closed the connection|is lost/,
  });
  await client.connect();
  assert.equal(await client.upload(3, 0x1000), "XCP");
});

test("a slave that is off is UNAVAILABLE over TCP and UDP, one that says nothing times out", async (t) => {
  for (const protocol of ["TCP", "UDP"]) {
    const { client } = await start(t, "TCP", {}, { port: 1, protocol });
    await assert.rejects(client.connect(), { code: "E_CONNECTION" });
  }
  const { slave, client } = await start(t, "UDP");
  slave.troubles.push("silence");
  const began = performance.now();
  await assert.rejects(client.connect(), {
    code: "E_TIMEOUT",
    message: "the slave does not answer CONNECT within 2 s",
  });
  assert.ok(performance.now() - began < 3_000);
  await client.connect();
});

test("the end of a lease disconnects", async (t) => {
  const { slave, exporter, ethernet, client } = await start(t, "TCP");
  await client.connect();
  await exporter.tree.release();
  assert.equal(slave.packets.at(-1), "fe");
  while ((ethernet?.connections.size ?? 0) > 0) await sleep(2);
});

test("what only pyxcp can do is refused when the configuration is read", async () => {
  for (const [config, text] of [
    [{ transport: "USB" }, "USB needs pyxcp: use the Python driver"],
    [{ transport: "SXI" }, "SXI needs pyxcp"],
    [{ config_file: "/etc/xcp.py" }, "a pyxcp configuration file needs pyxcp"],
    [{ transport: "CAN", channel: "can0" }, "must be given for CAN"],
    [{ protocol: "SCTP" }, "protocol"],
  ] as const) {
    const ecu = { type: "jumpstarter_driver_xcp.driver.Xcp", config };
    await assert.rejects(createExporter({ name: "test", export: { ecu } }), (error: Error) =>
      error.message.includes(text),
    );
  }
});
