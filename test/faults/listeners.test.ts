/** What stands in a listener's way, and what too many or too stubborn clients can do to it. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import http2 from "node:http2";
import { join } from "node:path";
import { test } from "node:test";
import { createExporter } from "../../agent/session/exporter.ts";
import { serve } from "../../agent/session/server.ts";
import { createDirectSession } from "../../agent/session/session.ts";
import { scratch } from "../sim/agent.ts";
import { createRig } from "../sim/rig.ts";
import { failure, WireClient } from "../sim/wire.ts";

test("a file that stands at the socket's path is left alone", async (t) => {
  const rig = createRig();
  const exporter = await createExporter({ name: "test", export: { rig: rig.entry }, catalog: rig.catalog });
  t.after(() => exporter.close());
  const path = join(scratch(t), "notes.txt");
  writeFileSync(path, "mine");
  await assert.rejects(serve(createDirectSession(exporter), { unix: path }), {
    code: "E_IO",
    message: `${path} exists and is not a socket`,
  });
  assert.equal(readFileSync(path, "utf8"), "mine");
});

test("one connection too many is told why, and the others are served on", async (t) => {
  const rig = createRig();
  const exporter = await createExporter({ name: "test", export: { rig: rig.entry }, catalog: rig.catalog });
  const served = await serve(createDirectSession(exporter), { host: "127.0.0.1", port: 0, limits: { connections: 2 } });
  t.after(async () => {
    await served.close(0);
    await exporter.close();
  });
  const [first, second] = [new WireClient(t, served.address), new WireClient(t, served.address)];
  await Promise.all([first.report(), second.report()]);
  const third = http2.connect(`http://${served.address}`);
  third.on("error", () => {});
  const refusal = once(third, "goaway");
  const gone = new Promise((resolve) => third.once("close", resolve));
  const stream = third.request({ ":method": "POST", ":path": "/", "content-type": "application/grpc" });
  stream.on("error", () => {});
  const answered = once(stream, "response").then(() => assert.fail("a refused connection was served"));
  answered.catch(() => {});
  const [code, , reason] = (await Promise.race([refusal, answered])) as [number, number, Buffer];
  assert.equal(code, http2.constants.NGHTTP2_ENHANCE_YOUR_CALM);
  assert.equal(reason.toString(), "this exporter serves no more than 2 connections at once");
  await gone;
  assert.match(await failure(new WireClient(t, served.address).report()), /^(8|14) /);
  assert.ok(await first.report());
  second.close();
  // Until the server has seen it go, a new connection may still be refused.
  for (let tries = 0; ; tries += 1) {
    const fourth = new WireClient(t, served.address);
    if (await fourth.report().catch(() => undefined)) break;
    fourth.close();
    assert.ok(tries < 100, "the place of a closed connection stays taken");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
});
