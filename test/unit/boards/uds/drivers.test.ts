// One set of methods over two transports: every test of the methods runs on both.
import assert from "node:assert/strict";
import { describe, test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { Calls } from "../../../../agent/driver/interface.ts";
import { createExporter, type Exporter } from "../../../../agent/session/exporter.ts";
import { can } from "../../../../boards/can/interface.ts";
import { uds } from "../../../../boards/uds/interface.ts";
import { ecuAddress, startDoipEntity } from "../../../sim/doip-entity.ts";
import { ecuIds, serveOnCan } from "../../../sim/uds-on-can.ts";
import { UdsServer } from "../../../sim/uds-server.ts";

interface Setup {
  readonly ecu: UdsServer;
  readonly exporter: Exporter;
  readonly calls: (this: void, signal?: AbortSignal) => Calls<typeof uds>;
  readonly log: string[];
}

const callsOf = (exporter: Exporter, signal?: AbortSignal) =>
  exporter.calls("ecu", uds, signal === undefined ? {} : { signal });

async function overCan(t: TestContext, config: Record<string, unknown>): Promise<Setup> {
  const ecu = new UdsServer();
  const exporter = await createExporter({
    name: "test",
    export: {
      ecu: {
        type: "jumpstarter_driver_uds_can.driver.UdsCan",
        config: { channel: "bus", interface: "virtual", ...ecuIds, ...config },
      },
      peer: { type: "jumpstarter_driver_can.driver.Can", config: { channel: "bus", interface: "virtual" } },
    },
  });
  const over = new AbortController();
  const served = serveOnCan(exporter.calls("peer", can), ecu, over.signal);
  t.after(async () => {
    over.abort();
    await served;
    await exporter.close();
  });
  return setup(ecu, exporter);
}

async function overDoip(t: TestContext, config: Record<string, unknown>): Promise<Setup> {
  const entity = await startDoipEntity(t);
  const exporter = await createExporter({
    name: "test",
    export: {
      ecu: {
        type: "jumpstarter_driver_uds_doip.driver.UdsDoip",
        config: { ecu_ip: entity.host, tcp_port: entity.port, ecu_logical_address: ecuAddress, ...config },
      },
    },
  });
  t.after(() => exporter.close());
  entity.ecu.onReset = () => setImmediate(() => entity.hangUp());
  return setup(entity.ecu, exporter);
}

function setup(ecu: UdsServer, exporter: Exporter): Setup {
  const log: string[] = [];
  exporter.logs.subscribe(({ message }) => log.push(message));
  return { ecu, exporter, calls: (signal) => callsOf(exporter, signal), log };
}

const hex = (text: string) => Buffer.from(text).toString("hex");
const success = { success: true, nrc: null, nrc_name: null };
const negative = (nrc: number, nrc_name: string) => ({ success: false, nrc, nrc_name });
const until = async (condition: () => boolean) => {
  while (!condition()) await sleep(5);
};

for (const [transport, start] of [
  ["CAN", overCan],
  ["DoIP", overDoip],
] as const) {
  describe(`UDS over ${transport}`, () => {
    test("sessions, resets and the tester that is present", async (t) => {
      const { ecu, calls } = await start(t, {});
      const service = "DiagnosticSessionControl";
      const client = calls();
      const refused = { service, data: null, ...negative(0x22, "ConditionsNotCorrect") };
      assert.deepEqual(await client.change_session("programming"), refused);
      assert.deepEqual(await client.change_session("extended"), { service, data: "0303e801f4", ...success });
      assert.deepEqual(await client.ecu_reset("key_off_on"), { service: "ECUReset", data: "02", ...success });
      // DoIP entities close their connections when they are reset.
      await sleep(20);
      assert.equal(await client.tester_present(), null);
      await assert.rejects(client.change_session("deep" as never), { code: "E_INVALID" });
      assert.deepEqual(ecu.requests, ["1002", "1003", "1102", "3e00"]);
      ecu.troubles.push("busy");
      await assert.rejects(client.tester_present(), {
        code: "E_FAILED",
        message: "TesterPresent service execution returned a negative response BusyRepeatRequest (0x21)",
      });
    });

    test("data is read, several at a time too, and written to those who may", async (t) => {
      const { ecu, calls, log } = await start(t, {});
      const client = calls();
      const vin = { did: 0xf190, value: hex("WVWZZZ1JZXW000001") };
      const serial = { did: 0xf18c, value: "00ff80" };
      assert.deepEqual(await client.read_data_by_identifier([0xf190]), [vin]);
      assert.deepEqual(await client.read_data_by_identifier([0xf18c, 0x1234, 0xf190, 0xf190]), [serial, vin]);
      assert.ok(log.some((line) => line.includes("0x1234") && line.includes("RequestOutOfRange")));
      assert.deepEqual(await client.read_data_by_identifier([0x1234]), []);
      await assert.rejects(client.read_data_by_identifier([]), { code: "E_INVALID" });
      await assert.rejects(client.read_data_by_identifier([0x10000]), { code: "E_INVALID" });

      const service = "WriteDataByIdentifier";
      const write = (did: number, value: string) => client.write_data_by_identifier(did, value);
      const session = negative(0x7f, "ServiceNotSupportedInActiveSession");
      assert.deepEqual(await write(0xf18c, "01"), { service, data: null, ...session });
      await client.change_session("extended");
      assert.deepEqual(await write(0xf18c, "01 02"), { service, data: "f18c", ...success });
      assert.equal(Buffer.from(ecu.data.get(0xf18c) ?? []).toString("hex"), "0102");
      assert.deepEqual(await write(0xf190, "00"), { service, data: null, ...negative(0x33, "SecurityAccessDenied") });
      assert.deepEqual(await write(0x0bad, "00"), {
        service,
        data: null,
        ...negative(0x72, "GeneralProgrammingFailure"),
      });
      // Longer than any single frame.
      const long = "5a".repeat(3000);
      assert.equal((await write(0x0100, long)).success, true);
      assert.deepEqual(await client.read_data_by_identifier([0x0100]), [{ did: 0x0100, value: long }]);
      for (const wrong of ["1", "xy"]) await assert.rejects(write(1, wrong), { code: "E_INVALID" });
    });

    test("a seed and its key unlock the ECU, by either number of the level", async (t) => {
      const { ecu, calls } = await start(t, {});
      const client = calls();
      const service = "SecurityAccess";
      assert.deepEqual(await client.send_key(1, "00"), {
        service,
        data: null,
        ...negative(0x24, "RequestSequenceError"),
      });
      assert.deepEqual(await client.request_seed(2), { seed: "11223344", ...success });
      assert.deepEqual(await client.send_key(1, "0000"), { service, data: null, ...negative(0x35, "InvalidKey") });
      await client.request_seed(1);
      assert.deepEqual(await client.send_key(1, "EEDDCCBB"), { service, data: "02", ...success });
      assert.equal(ecu.unlocked, true);
      await assert.rejects(client.request_seed(0), { code: "E_INVALID" });
      await assert.rejects(client.request_seed(0x7f), { code: "E_INVALID" });
    });

    test("trouble codes are told and cleared", async (t) => {
      const { ecu, calls } = await start(t, {});
      const client = calls();
      const [first, second] = [
        { dtc_id: 0x010203, status: 0x2f, severity: 0 },
        { dtc_id: 0xc10000, status: 0x08, severity: 0 },
      ];
      assert.deepEqual(await client.read_dtc_by_status_mask(), [first, second]);
      assert.deepEqual(await client.read_dtc_by_status_mask(1), [first]);
      const service = "ClearDiagnosticInformation";
      assert.deepEqual(await client.clear_dtc(5), { service, data: null, ...negative(0x31, "RequestOutOfRange") });
      assert.deepEqual(await client.clear_dtc(), { service, data: null, ...success });
      assert.deepEqual(await client.read_dtc_by_status_mask(), []);
      assert.equal(ecu.requests.at(-2), "14ffffff");
    });

    test("routines, authentication and files", async (t) => {
      const { calls } = await start(t, {});
      const client = calls();
      const routine = { routine_id: 0xff00, status_record: null, ...success };
      const early = { ...routine, ...negative(0x24, "RequestSequenceError") };
      assert.deepEqual(await client.get_routine_result(0xff00), { ...early, control_type: "requestRoutineResults" });
      const started = { ...routine, control_type: "startRoutine", status_record: "0102" };
      assert.deepEqual(await client.start_routine(0xff00, "0102"), started);
      assert.deepEqual(await client.stop_routine(0xff00, ""), { ...routine, control_type: "stopRoutine" });
      const result = { ...routine, control_type: "requestRoutineResults", status_record: "2a" };
      assert.deepEqual(await client.get_routine_result(0xff00), result);

      const answer = await client.authentication(2, 0, "aa", "bb", null, "");
      assert.deepEqual(
        [answer.return_value, answer.challenge_server, answer.certificate_server, answer.proof_of_ownership_server],
        [0x11, "aabb", "cc", "ddee"],
      );
      assert.equal(
        (await client.authentication(5, 0, null, null, "11".repeat(16))).algorithm_indicator,
        "11".repeat(16),
      );
      assert.equal((await client.authentication(7, null, null, "01", "22".repeat(16), "02")).session_key_info, "8899");
      assert.equal((await client.authentication(3, null, null, null, null, "02")).session_key_info, "010203");
      for (const [task, communication] of [[1, null], [5, 0], [4, 0]] as const) {
        await assert.rejects(client.authentication(task, communication), { code: "E_INVALID" });
      } // prettier-ignore

      const sizes = { max_length: null, filesize_uncompressed: null, filesize_compressed: null, dirinfo_length: null };
      const file = { ...success, ...sizes };
      assert.deepEqual(await client.request_file_transfer(4, "/a"), {
        ...file,
        moop: 4,
        max_length: 0x0ffa,
        filesize_uncompressed: 0x012345,
        filesize_compressed: 0x000123,
      });
      assert.deepEqual(await client.request_file_transfer(5, "/"), {
        ...file,
        moop: 5,
        max_length: 0xfe,
        dirinfo_length: 0x222,
      });
      assert.deepEqual(await client.request_file_transfer(2, "/a"), { ...file, moop: 2 });
      assert.equal((await client.request_file_transfer(1, "/a", 70_000)).max_length, 0x0ffa);
      const refused = { ...file, moop: 6, ...negative(0x70, "UploadDownloadNotAccepted") };
      assert.deepEqual(await client.request_file_transfer(6, "/a", 1), refused);
      for (const [mode, path, size] of [[1, "/a", undefined], [4, "/a", 3], [7, "/a", 3], [4, "/ä", undefined]] as const) {
        await assert.rejects(client.request_file_transfer(mode, path, size), { code: "E_INVALID" });
      } // prettier-ignore
    });

    test("an ECU that is at it may take longer than the timeout of a request", async (t) => {
      const { ecu, calls } = await start(t, { request_timeout: 0.2 });
      ecu.troubles.push("pending");
      assert.equal((await calls().start_routine(0xff00)).success, true);
    });

    test("an ECU that says nothing times out, and the next request is answered", async (t) => {
      const { ecu, calls } = await start(t, { request_timeout: 0.1 });
      ecu.troubles.push("silence");
      const client = calls();
      await assert.rejects(client.tester_present(), {
        code: "E_TIMEOUT",
        message: "no response to TesterPresent within 0.1 s",
      });
      await client.tester_present();
    });

    test("wrong and broken answers are told as such", async (t) => {
      const { ecu, calls } = await start(t, {});
      ecu.troubles.push("wrong echo", "garbage");
      const client = calls();
      await assert.rejects(client.read_data_by_identifier([0xf190]), {
        code: "E_FAILED",
        message: "unexpected response to ReadDataByIdentifier: 62eeeeee",
      });
      await assert.rejects(client.request_seed(1), {
        code: "E_FAILED",
        message: "unexpected response to SecurityAccess: 7f",
      });
    });

    test("what comes between two requests answers none of them", async (t) => {
      const { ecu, calls } = await start(t, {});
      ecu.troubles.push("afterthought");
      await calls().tester_present();
      await sleep(100);
      assert.deepEqual(await calls().read_data_by_identifier([0xf18c]), [{ did: 0xf18c, value: "00ff80" }]);
    });

    test("a call that was cancelled leaves the link usable; its late answer is nobody else's", async (t) => {
      const { ecu, calls } = await start(t, {});
      await calls().tester_present();
      ecu.troubles.push("pending");
      const cancelled = new AbortController();
      const outcome = assert.rejects(calls(cancelled.signal).start_routine(0xff00), /enough/);
      await until(() => ecu.requests.length === 2);
      cancelled.abort(new Error("enough"));
      await outcome;
      assert.deepEqual(await calls().read_data_by_identifier([0xf18c]), [{ did: 0xf18c, value: "00ff80" }]);
    });
  });
}

test("CAN ids of 29 bits are known by their size, and isotp_params are heeded", async (t) => {
  const ids = { rxid: 0x18daf110, txid: 0x18da10f1 };
  const open = (config: Record<string, unknown>) => {
    const type = "jumpstarter_driver_uds_can.driver.UdsCan";
    return createExporter({ name: "test", export: { ecu: { type, config: { channel: "b", interface: "virtual", ...config } } } });
  }; // prettier-ignore
  const exporter = await open({ ...ids, isotp_params: { rx_flowcontrol_timeout: 50, tx_padding: 0xcc } });
  t.after(() => exporter.close());
  const client = exporter.calls("ecu", uds);
  // Nobody is there to say how the frames after the first shall come.
  await assert.rejects(client.write_data_by_identifier(1, "00".repeat(20)), {
    code: "E_TIMEOUT",
    message: "the request was not sent: no flow control within 50 ms (N_TIMEOUT_Bs)",
  });
  for (const wrong of [{ rxid: 1, txid: 1 }, { rxid: 1 }, { ...ids, isotp_params: { stmin: 300 } }, { ...ids, request_timeout: 0 }]) {
    await assert.rejects(open(wrong), { code: "E_CONFIG" });
  } // prettier-ignore
});
