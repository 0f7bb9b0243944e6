// The kernel's virtual camera (vivid) through ustreamer, which goes away and comes back.
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { ustreamer } from "../../../boards/video/interface.ts";
import { isJpeg, pictureSize } from "../../../boards/video/protocol.ts";
import { exporter } from "./lib/exporter.ts";
import { modprobe, waitFor } from "./lib/system.ts";

/** The node that pictures come from; vivid makes others as well. */
function findCamera(): string | undefined {
  const found = existsSync("/sys/class/video4linux") ? readdirSync("/sys/class/video4linux") : [];
  return found.find(
    (name) => readFileSync(`/sys/class/video4linux/${name}/name`, "utf8").trim() === "vivid-000-vid-cap",
  );
}

test("pictures of a camera, while it is there", async (t) => {
  await modprobe("vivid", "node_types=0x1");
  const device = `/dev/${await waitFor("a camera", findCamera)}`;
  const args = { device, resolution: "320x180", "desired-fps": 5, workers: 1, "device-error-delay": 1 };
  const { node } = await exporter(t, {
    camera: { type: "jumpstarter_driver_ustreamer.driver.UStreamer", config: { args, warm_up: 60 } },
  });
  const camera = node("camera").as(ustreamer);
  const shoot = async () => Buffer.from(await camera.snapshot(), "base64");
  const picture = await shoot();
  assert.ok(isJpeg(picture));
  const { result, ...state } = await camera.state();
  assert.deepEqual(pictureSize(picture), { width: state.width, height: state.height });
  assert.deepEqual([state.ok, state.online, result.encoder.type], [true, true, "CPU"]);

  const vivid = "/sys/bus/platform/drivers/vivid";
  writeFileSync(`${vivid}/unbind`, "vivid.0");
  await waitFor("it notices that its camera has gone", async () => !(await camera.state()).online, 60_000);
  writeFileSync(`${vivid}/bind`, "vivid.0");
  await waitFor("it has its camera again", async () => (await camera.state()).online, 60_000);
  assert.ok(isJpeg(await shoot()));
});
