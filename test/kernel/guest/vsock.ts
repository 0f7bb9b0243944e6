// Virtual sockets of the kernel, which this system has with itself (vsock_loopback).
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { buffer } from "node:stream/consumers";
import { before, test, type TestContext } from "node:test";
import { network } from "../../../net/sockets/interface.ts";
import { exporter } from "./lib/exporter.ts";
import { modprobe, waitFor } from "./lib/system.ts";

const limit = { timeout: 40_000 };
/** VMADDR_CID_LOCAL */
const here = 1;

before(() => modprobe("vsock_loopback"));

const entry = (port: number) => ({
  type: "jumpstarter_driver_network.driver.VsockNetwork",
  config: { cid: here, port },
});

/** Gives back what it gets, to any number of callers, and ends when they do. */
async function serveEcho(t: TestContext, port: number): Promise<void> {
  const server = spawn("socat", [`VSOCK-LISTEN:${port},fork`, "EXEC:cat"], { stdio: "ignore" });
  await once(server, "spawn");
  t.after(() => server.kill());
}

test("a virtual socket gives back what it got, to several callers at once", limit, async (t) => {
  await serveEcho(t, 7_000);
  const { node } = await exporter(t, { echo: entry(7_000) });
  const calls = node("echo").as(network);
  const first = await waitFor("the server", () => calls.connect().catch(() => undefined));
  first.end("here already");
  assert.equal((await buffer(first)).toString(), "here already");
  const content = randomBytes(1_000_000);
  await Promise.all(
    [1, 2, 3].map(async () => {
      const stream = await calls.connect();
      stream.end(content);
      assert.ok((await buffer(stream)).equals(content));
    }),
  );
});

test("a port where nobody listens, and a guest that is not there, are told at once", limit, async (t) => {
  const nowhere = { ...entry(1), config: { cid: 77, port: 1 } };
  const { node } = await exporter(t, { nobody: entry(7_001), nowhere });
  const refused = async (path: string) => {
    const stream = await node(path).as(network).connect();
    await buffer(stream);
  };
  await assert.rejects(refused("nobody"), { code: "E_CONNECTION", message: /virtual socket 1:7001/ });
  await assert.rejects(refused("nowhere"), /virtual socket 77:1/);
});
