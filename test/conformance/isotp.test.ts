// The Python client drives ISO-TP, and can-isotp, the stack of the Python exporter, speaks with ours over a virtual CAN bus.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { startExporter } from "../sim/exporter.ts";
import { clientEnv, clientProgram, missingClient, run } from "../sim/python-client.ts";

/** The release whose environment has the client of the CAN drivers. */
const version = "0.9.0";

const isoTp = (channel: string, txid: number, rxid: number, params: Record<string, unknown>) => ({
  type: "jumpstarter_driver_can.driver.IsoTpPython",
  config: { channel, interface: "virtual", address: { txid, rxid }, params },
});

async function drive(socketPath: string, section: string): Promise<void> {
  const { code, stdout, stderr } = await run(
    clientProgram(version, "python"),
    ["test/conformance/drive_isotp.py", section],
    { env: clientEnv(socketPath) },
  );
  assert.equal(code, 0, `${stdout}\n${stderr}`);
  assert.match(stdout, new RegExp(`passed ${section}`));
}

describe(`Python client ${version}`, { skip: missingClient(version) }, () => {
  test("2048 bytes from client to client, blocking or not, with addresses given at run time", async (t) => {
    const params = { max_frame_size: 2048, tx_data_length: 64 };
    const blocking = { ...params, blocking_send: true };
    const { socketPath } = await startExporter(t, {
      a: isoTp("one", 2, 1, params),
      b: isoTp("one", 1, 2, params),
      blocking_a: isoTp("two", 2, 1, blocking),
      blocking_b: isoTp("two", 1, 2, blocking),
    });
    await drive(socketPath, "clients");
  });

  test("errors are those that the client knows", async (t) => {
    const params = { tx_data_length: 64, blocking_send: true, rx_flowcontrol_timeout: 300 };
    const { socketPath } = await startExporter(t, { blocking_a: isoTp("three", 2, 1, params) });
    await drive(socketPath, "errors");
  });

  test("can-isotp on a CAN client, in every addressing mode, with frames of 8 and 64 bytes", async (t) => {
    const params = { max_frame_size: 5000, blocking_send: true, blocksize: 3 };
    const { socketPath } = await startExporter(t, {
      can: { type: "jumpstarter_driver_can.driver.Can", config: { channel: "four", interface: "virtual" } },
      short: isoTp("four", 1, 2, params),
      long: isoTp("four", 1, 2, { ...params, tx_data_length: 64, can_fd: true }),
    });
    await drive(socketPath, "stack");
  });
});
