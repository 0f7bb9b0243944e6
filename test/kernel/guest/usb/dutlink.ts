import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { Readable } from "node:stream";
import { test } from "node:test";
import { dutlinkPower } from "../../../../boards/dutlink/interface.ts";
import { power } from "../../../../boards/power/interface.ts";
import { serialPort } from "../../../../boards/serial/interface.ts";
import { imageStorageMux } from "../../../../boards/storage/interface.ts";
import { type DutlinkState } from "../../../sim/usbip/dutlink.ts";
import { exporter } from "../lib/exporter.ts";
import { waitFor } from "../lib/system.ts";
import { startLab } from "../lib/usb-lab.ts";
import { loadUsbDrivers, usbNodeOf } from "../lib/usb-nodes.ts";

test("DUTLink: power, meter, storage and console", async (t) => {
  await loadUsbDrivers();
  const lab = startLab(t);
  const place = await lab.plug("dutlink");
  const disk = await usbNodeOf(await lab.plug("reader"), "block");
  await usbNodeOf(place, "tty");
  const state = () => lab.state<DutlinkState>("dutlink");
  const guest = await exporter(t, {
    board: {
      type: "jumpstarter_driver_dutlink.driver.Dutlink",
      config: { serial: "a1b2c3d4", storage_device: disk, storage_leeway: 0, timeout_s: 5 },
    },
    other: { type: "jumpstarter_driver_power.driver.MockPower" },
  });
  assert.deepEqual([...guest.node("board").children.keys()], ["power", "storage", "console"]);

  await t.test("every command is sent, also the same one again", async () => {
    const calls = guest.node("board.power").as(dutlinkPower);
    for (const action of ["on", "on", "off", "rescue", "force_off", "force_on"] as const) await calls[action]();
    assert.deepEqual((await state()).actions, ["on", "on", "off", "rescue", "force-off", "force-on"]);
  });

  await t.test("the meter is read at once and then when it changes", async () => {
    const calls = guest.node("board.power").as(dutlinkPower);
    const seen = [];
    await lab.change("dutlink", { meter: "0.50A 5.10V 2.55W" });
    for await (const reading of calls.read()) {
      seen.push(reading);
      if (seen.length === 2) break;
      await lab.change("dutlink", { meter: "2.60W 5.20V 0.50A" });
    }
    assert.deepEqual(seen, [
      { voltage: 5.1, current: 0.5 },
      { voltage: 5.2, current: 0.5 },
    ]);
    await lab.change("dutlink", { meter: "1.2.3V" });
    await assert.rejects(
      (async () => {
        for await (const _ of calls.read());
      })(),
      /the meter of 2b23:1012 Dutlink, serial a1b2c3d4, at .* shows "1\.2\.3V"/,
    );
  });

  await t.test("an image is written and read back, with the storage at the host", async () => {
    const calls = guest.node("board.storage").as(imageStorageMux);
    await calls.dut();
    assert.equal((await state()).storage, "dut");
    const image = randomBytes(1 << 20);
    await guest.node("board.storage").lendSource(Readable.from([image]), (handle) => calls.write(handle), {});
    assert.equal((await state()).storage, "host");
    assert.equal((await state()).cardStart, createHash("sha256").update(image).digest("hex"));
    await calls.dut();
    assert.equal((await state()).storage, "dut");
  });

  await t.test("the console leads to the device, and its escape is sent once", async () => {
    const calls = guest.node("board.console").as(serialPort);
    const first = await calls.connect();
    const heard = listen(first);
    assert.equal((await state()).mode, "console");
    assert.equal((await state()).toDevice, "", "the board was in its shell: nothing reached the device");
    first.write("\r");
    await heard.until("login: ");
    first.destroy();
    const again = await calls.connect();
    const heardAgain = listen(again);
    again.write("root\r");
    await heardAgain.until("login: ");
    assert.equal((await state()).toDevice, "\rroot\r");

    again.write("\x02".repeat(5));
    await heardAgain.until("#> ");
    again.write("about\r");
    await heardAgain.until("Jumpstarter test-harness");
    const beside = await calls.connect();
    assert.equal((await state()).mode, "shell", "nobody is led out of the shell while somebody is in it");
    again.destroy();
    beside.destroy();
    await Promise.all([once(again, "close"), once(beside, "close")]);
    // The exporter learns a moment later that they have gone.
    await waitFor("the next one is led to the device again", async () => {
      (await calls.connect()).destroy();
      return (await state()).mode === "console";
    });
  });

  await t.test("unplugged it is offline with its name, the others work, and it comes back by itself", async () => {
    await lab.unplug("dutlink");
    const calls = guest.node("board.power").as(dutlinkPower);
    await waitFor("it is offline", async () =>
      calls.on().then(
        () => false,
        (error: Error) =>
          /failed to find dutlink device with serial a1b2c3d4 \(checked 2b23:1012\)/.test(error.message),
      ),
    );
    await guest.node("other").as(power).on();
    await lab.plug("dutlink");
    await waitFor("it is back", () =>
      calls.on().then(
        () => true,
        () => false,
      ),
    );
    const stream = await waitFor("the console is back", () =>
      guest
        .node("board.console")
        .as(serialPort)
        .connect()
        .catch(() => undefined),
    );
    stream.destroy();
  });
});

function listen(stream: Readable) {
  let text = "";
  stream.on("data", (chunk: Buffer) => (text += chunk.toString("latin1")));
  return {
    /** In what came since the last one. */
    async until(wanted: string): Promise<void> {
      await waitFor(JSON.stringify(wanted), () => text.includes(wanted));
      text = text.slice(text.indexOf(wanted) + wanted.length);
    },
  };
}
