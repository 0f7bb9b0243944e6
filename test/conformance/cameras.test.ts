// The real Python clients and cameras, a debug probe and a device of Corellium's cloud.
import assert from "node:assert/strict";
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { scratch, startAgent } from "../sim/agent.ts";
import { startCamera } from "../sim/camera.ts";
import { createAuthority } from "../sim/certificates.ts";
import { startCorellium } from "../sim/corellium.ts";
import { isAlive } from "../sim/processes.ts";
import { bottomBright, leftBright } from "../sim/pictures.ts";
import { clientEnv, clientProgram, missingClient, run } from "../sim/python-client.ts";
import { builtProbeRs } from "../../scripts/probe-rs.mjs";

/** The release whose clients are installed with these drivers. */
const version = "0.9.0";

describe(`Python client ${version}`, { skip: missingClient(version) }, () => {
  test("cameras, a debug probe and a virtual device", async (t) => {
    const folder = scratch(t);
    const file = (name: string, content: string | Buffer = "") => {
      writeFileSync(join(folder, name), content);
      return join(folder, name);
    };
    const story = (picture: Buffer, more: Record<string, unknown> = {}) =>
      file(
        `story-${picture === leftBright ? "left" : "bottom"}`,
        JSON.stringify({ picture: picture.toString("base64"), ...more }),
      );
    const ustreamer = (args: Record<string, unknown>, more: Record<string, unknown> = {}) => ({
      type: "jumpstarter_driver_ustreamer.driver.UStreamer",
      config: { warm_up: 1, args, ...more },
    });
    const doubled = (storyPath: string) =>
      ustreamer({ story: storyPath, lives: file("lives") }, { executable: resolve("test/sim/ustreamer.mjs") });
    copyFileSync("test/sim/probe-rs.mjs", file("probe-rs.mjs"));
    const probe_rs_path = join(folder, "probe-rs");
    writeFileSync(probe_rs_path, `#!/bin/sh\nexec ${process.execPath} ${probe_rs_path}.mjs "$@"\n`, { mode: 0o755 });
    const probe = (config: Record<string, unknown>) => ({
      type: "jumpstarter_driver_probe_rs.driver.ProbeRs",
      config: { probe_rs_path, ...config },
    });
    const camera = await startCamera(t, { password: "op:s3cret" });
    const authority = await createAuthority(join(folder, "authority"));
    const cloud = await startCorellium(t, await authority.serverCertificate());
    const ca = file("authority.pem", authority.certificate);

    const agent = await startAgent(
      t,
      {
        left: doubled(story(leftBright)),
        bottom: doubled(story(bottomBright)),
        dark: ustreamer({ device: "/dev/video-nowhere" }),
        http: {
          type: "jumpstarter_driver_video.driver.HttpVideo",
          config: { url: `http://op:s3cret@127.0.0.1:${camera.port}/stream` },
        },
        probe: probe({ chip: "nRF52840_xxAA" }),
        broken: probe({ chip: "fails" }),
        // Without a probe; where the real program was not built, its double says so.
        real: probe(builtProbeRs() === undefined ? { chip: "fails" } : { probe_rs_path: builtProbeRs() }),
        device: {
          type: "jumpstarter_driver_corellium.driver.Corellium",
          config: { project_id: "p1", device_name: "board-1", device_flavor: "rd1ae" },
        },
      },
      {
        env: {
          ...{ CORELLIUM_API_HOST: cloud.host, CORELLIUM_API_TOKEN: cloud.token, NODE_EXTRA_CA_CERTS: ca },
          ...{ CORELLIUM_API_RETRIES: "6", CORELLIUM_API_INTERVAL: "0.05" },
        },
      },
    );
    const references = [
      file("left.jpg", leftBright),
      file("bottom.jpg", bottomBright),
      file("firmware.elf", "firmware"),
    ];
    const { code, stdout, stderr } = await run(
      clientProgram(version, "python"),
      ["test/conformance/drive_cameras.py", ...references],
      { env: clientEnv(agent.socketPath) },
    );
    assert.equal(code, 0, `${stdout}\n${stderr}\nagent:\n${agent.output()}`);
    assert.match(stdout, /passed/);

    const calls = readFileSync(join(folder, "calls"), "utf8").trim().split("\n");
    const told = calls.map((line) => JSON.parse(line) as { command: string; words: string[]; content?: string });
    assert.deepEqual(told.find(({ command }) => command === "download")?.content, "firmware");
    assert.equal(cloud.instances.size, 0);
    for (const secret of [cloud.token, cloud.secret, "s3cret"]) assert.ok(!agent.output().includes(secret), secret);

    // Both `j` say the same to the same words.
    const env = clientEnv(agent.socketPath);
    const words = ["probe", "read", "16", "0x20", "3"];
    const theirs = await run(clientProgram(version, "j"), words, { env });
    const ours = await run(process.execPath, ["dist/j.js", ...words], { env });
    assert.equal(theirs.stdout, "beef bef0 bef1\n", theirs.stderr);
    assert.deepEqual([ours.code, ours.stdout], [0, theirs.stdout], ours.stderr);
    const flashed = await run(process.execPath, ["dist/j.js", "probe", "download", references[2] ?? ""], { env });
    assert.equal(flashed.stdout, "ok\n\n", flashed.stderr);
    for (const name of ["http", "left"]) {
      const saved = join(folder, `${name}.saved`);
      const { code, stderr } = await run(process.execPath, ["dist/j.js", name, "snapshot", saved], { env });
      assert.equal(code, 0, stderr);
      assert.ok(readFileSync(saved).equals(leftBright));
    }
    const state = await run(process.execPath, ["dist/j.js", "http", "state"], { env });
    assert.deepEqual(JSON.parse(state.stdout), { online: true, width: 48, height: 32, fps: null });

    // An agent that is killed leaves no camera in use.
    const streamers = readFileSync(join(folder, "lives"), "utf8")
      .trim()
      .split("\n")
      .map((line) => parseInt(line));
    assert.ok(streamers.length >= 2 && isAlive(streamers.at(-1) ?? 0));
    agent.child.kill("SIGKILL");
    for (let waited = 0; streamers.some(isAlive) && waited < 5_000; waited += 10) await sleep(10);
    assert.deepEqual(streamers.filter(isAlive), []);
  });
});
