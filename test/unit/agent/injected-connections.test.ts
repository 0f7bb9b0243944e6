import assert from "node:assert/strict";
import { once } from "node:events";
import { connect } from "node:http2";
import { test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { serveTunnels } from "../../../agent/session/server.ts";
import { RouterStream, type Carrier } from "../../../agent/stream/router-stream.ts";
import { startExporter } from "../../sim/exporter.ts";

/** Two ends of a tunnel whose router needs a moment for every frame. */
function tunnel(): { exporterEnd: RouterStream; clientEnd: RouterStream } {
  const carrier = (peer: () => RouterStream): Carrier => ({
    send(payloads, frameType, done) {
      setTimeout(() => {
        for (const payload of payloads) peer().receive({ payload: Buffer.from(payload), frameType });
        done();
      }, 1);
    },
    finish: () => {},
    flow: () => {},
    destroy: () => void setImmediate(() => peer().destroy()),
  });
  const exporterEnd: RouterStream = new RouterStream(
    carrier(() => clientEnd),
    { bytes: true },
  );
  const clientEnd: RouterStream = new RouterStream(
    carrier(() => exporterEnd),
    { bytes: true },
  );
  return { exporterEnd, clientEnd };
}

test("a client that ends its half of a tunnel while it is being written to is cut off, and nobody else", async (t) => {
  const { session } = await startExporter(t, {});
  const tunnels = serveTunnels(session);
  t.after(() => tunnels.close(0));
  const log = session.exporter.logs.logger({ source: "system", logger: "test" });
  const follow = async () => {
    const { exporterEnd, clientEnd } = tunnel();
    tunnels.inject(exporterEnd);
    const client = connect("http://exporter", { createConnection: () => clientEnd });
    client.on("error", () => {});
    const call = client.request({
      ":method": "POST",
      ":path": "/jumpstarter.v1.ExporterService/LogStream",
      "content-type": "application/grpc",
      te: "trailers",
    });
    call.on("error", () => {}).on("data", (chunk: Buffer) => (received += chunk.length));
    let received = 0;
    call.end(Buffer.alloc(5));
    await once(call, "response");
    t.after(() => client.destroy());
    return { exporterEnd, received: () => received };
  };
  const stays = await follow();
  // It matters where in a write the end comes, so it comes in many places.
  for (let round = 0; round < 20; round++) {
    const leaves = await follow();
    let done = false;
    const closed = once(leaves.exporterEnd, "close").then(() => (done = true));
    for (let turns = 0; !done; turns++) {
      if (turns === round) leaves.exporterEnd.receiveEnd();
      log.info("a line ".repeat(100));
      await turn();
    }
    await closed;
  }
  const before = stays.received();
  log.info("the last line");
  for (let turns = 0; stays.received() === before && turns < 10_000; turns++) await turn();
  assert.ok(stays.received() > before);
});
