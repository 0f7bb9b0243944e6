// Our `j` against the Python exporter: what we take the protocol for is not only what our own session speaks.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { stringify } from "yaml";
import { freePort, scratch } from "../sim/agent.ts";
import { clientProgram, missingClient, run } from "../sim/python-client.ts";

const version = "0.9.0";

describe("j against the Python exporter", { skip: missingClient(version) }, () => {
  test("calls, streams, resources and refusals are understood", async (t) => {
    const folder = scratch(t);
    const config = join(folder, "exporter.yaml");
    writeFileSync(
      config,
      stringify({
        apiVersion: "jumpstarter.dev/v1alpha1",
        kind: "ExporterConfig",
        metadata: { namespace: "default", name: "python" },
        endpoint: "",
        token: "",
        export: {
          power: { type: "jumpstarter_driver_power.driver.MockPower" },
          box: { children: { same: { ref: "power" } } },
          serial: { type: "jumpstarter_driver_pyserial.driver.PySerial", config: { url: "loop://" } },
          flasher: { type: "jumpstarter_driver_opendal.driver.MockFlasher" },
          files: {
            type: "jumpstarter_driver_opendal.driver.Opendal",
            config: { scheme: "fs", kwargs: { root: folder } },
          },
          shell: {
            type: "jumpstarter_driver_shell.driver.Shell",
            config: { methods: { say: 'echo "$WORD $*"; exit 3' } },
          },
        },
      }),
    );
    const port = await freePort();
    const exporter = spawn(
      clientProgram(version, "jmp"),
      ["run", "--exporter-config", config, "--tls-grpc-listener", String(port), "--tls-grpc-insecure"].concat([
        "--passphrase",
        "correct horse",
      ]),
      { stdio: "ignore" },
    );
    t.after(async () => {
      const exited = once(exporter, "exit");
      exporter.kill("SIGTERM");
      await exited;
    });
    await untilListening(port);

    const env = { JUMPSTARTER_HOST: `127.0.0.1:${port}`, JMP_GRPC_INSECURE: "1", JMP_GRPC_PASSPHRASE: "correct horse" };
    const j = (words: string, more: Record<string, string> = {}, input = "") =>
      run(process.execPath, ["dist/j.js", ...words.split(" ")], { env: { ...env, ...more }, input, timeoutMs: 60_000 });

    assert.match((await j("box same read")).stdout, /voltage=5 V {2}current=2 A {2}apparent_power=10 VA/);
    const [image, back] = [join(folder, "image"), join(folder, "back")];
    writeFileSync(image, Buffer.alloc(3_000_000, "jumpstarter "));
    for (const words of [`flasher flash ${image}`, `flasher dump ${back}`]) {
      const { code, stderr } = await j(words);
      assert.equal(code, 0, stderr);
    }
    assert.ok(readFileSync(back).equals(readFileSync(image)));
    await j("files write-bytes note.txt", {}, "hello\n");
    assert.equal((await j("files read-bytes note.txt")).stdout, "hello\n");
    const said = await j("shell say -e WORD=a b");
    assert.deepEqual([said.code, said.stdout], [3, "a b\n"]);
    assert.equal((await j("serial pipe --no-output", {}, "x")).code, 0);
    const missing = await j("power rescue");
    assert.deepEqual([missing.code, missing.stderr], [1, "Error: method rescue not found on driver\n"]);
    const refused = await j("power on", { JMP_GRPC_PASSPHRASE: "wrong" });
    assert.deepEqual([refused.code, refused.stderr], [1, "Error: invalid or missing passphrase\n"]);
  });
});

async function untilListening(port: number): Promise<void> {
  for (let waitedMs = 0; waitedMs < 60_000; waitedMs += 100) {
    const socket = connect(port, "127.0.0.1");
    const answers = await once(socket, "connect").then(
      () => true,
      () => false,
    );
    socket.destroy();
    if (answers) return;
    await sleep(100);
  }
  throw new Error(`nobody listens on port ${port}`);
}
