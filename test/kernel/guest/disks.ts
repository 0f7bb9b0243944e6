// Disks of three kinds come, take bytes and go.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { constants, existsSync } from "node:fs";
import { open, readFile, readdir, writeFile } from "node:fs/promises";
import { test } from "node:test";
import { massStorage } from "../../sim/usbip/mass-storage.ts";
import { plugUsb } from "../../sim/usbip/plug.ts";
import { sdCard, usbStick } from "./lib/plug.ts";
import { modprobe, modprobeAnew, waitFor } from "./lib/system.ts";

const mebi = 2 ** 20;

test("a disk of scsi_debug appears, keeps what is written and vanishes", async () => {
  await modprobe("sd_mod");
  await modprobeAnew("scsi_debug", "removable=1", "dev_size_mb=8");
  const name = await waitFor("the disk", () => diskWhere("device/model", "scsi_debug"));
  await roundTrip(`/dev/${name}`, mebi);
  await writeFile(`/sys/block/${name}/device/delete`, "1");
  await waitFor("the disk has gone", () => !existsSync(`/dev/${name}`));
});

test("an SD card is inserted, keeps what is written, and is taken out", async (t) => {
  const card = await sdCard(t);
  await roundTrip(await card.insert(), mebi);
  await card.remove();
  await card.insert();
});

test("a USB stick of QEMU is plugged in and pulled out", async (t) => {
  const stick = await usbStick(t);
  const path = await stick.plug();
  await roundTrip(path, mebi);
  await stick.unplug();
  assert.equal(existsSync(path), false);
});

test("the card of a simulated reader comes and goes, and so does the reader", async (t) => {
  await modprobe("usb_storage");
  await modprobe("sd_mod");
  const reader = massStorage({ vendor: "Generic", product: "Ultra HS-SD/MMC" });
  const device = { vendorId: 0x0424, productId: 0x4050, serial: "000000000011", functions: [reader] };
  const plugged = await plugUsb(t, device);
  const name = await waitFor("the reader's disk", () => diskWhere("device/model", "Ultra HS-SD/MMC"));
  assert.equal(await sizeBytes(name), 0);

  reader.insert(Buffer.alloc(4 * mebi));
  await waitFor("there is a card", async () => (await sizeBytes(name)) === 4 * mebi);
  const written = await roundTrip(`/dev/${name}`, mebi);
  assert.ok(reader.medium?.subarray(0, mebi).equals(written));

  reader.eject();
  await waitFor("there is no card", async () => (await sizeBytes(name)) === 0);
  await plugged.unplug();
  assert.equal(existsSync(`/dev/${name}`), false);
  await plugged.plug();
  await waitFor("the reader's disk again", () => diskWhere("device/model", "Ultra HS-SD/MMC"));
});

test("a simulated disk fails a command as real ones do", async (t) => {
  await modprobe("usb_storage");
  await modprobe("sd_mod");
  let broken = false;
  // A hardware error it would try again for ever.
  const writeError = { sense: [3, 0x0c, 0] } as const;
  const write10 = 0x2a;
  const disk = massStorage({
    product: "Broken",
    command: (cdb) => (broken && cdb[0] === write10 ? writeError : undefined),
  });
  disk.insert(Buffer.alloc(mebi));
  await plugUsb(t, { vendorId: 0x1234, productId: 0x5678, functions: [disk] });
  const name = await waitFor("the disk", () => diskWhere("device/model", "Broken"));
  await waitFor("its medium", async () => (await sizeBytes(name)) === mebi);
  broken = true;
  await assert.rejects(roundTrip(`/dev/${name}`, 4096), { code: "EIO" });
});

/** Writes random bytes, and reads them back from the device itself. */
async function roundTrip(path: string, bytes: number): Promise<Buffer> {
  const data = randomBytes(bytes);
  const file = await open(path, "r+");
  try {
    await file.write(data, 0, bytes, 0);
    await file.sync();
    // What the kernel remembers does not count.
    await writeFile("/proc/sys/vm/drop_caches", "3");
    const back = Buffer.alloc(bytes);
    await file.read(back, 0, bytes, 0);
    assert.ok(back.equals(data), `${path} gives back something else`);
    return data;
  } finally {
    await file.close();
  }
}

/** Of the medium that is in it now: the kernel looks when somebody opens the disk. */
async function sizeBytes(name: string): Promise<number> {
  const { O_RDONLY, O_NONBLOCK } = constants;
  const file = await open(`/dev/${name}`, O_RDONLY | O_NONBLOCK).catch(() => undefined);
  await file?.close();
  return Number(await readFile(`/sys/block/${name}/size`, "utf8")) * 512;
}

async function diskWhere(attribute: string, value: string): Promise<string | undefined> {
  for (const name of await readdir("/sys/block")) {
    const is = await readFile(`/sys/block/${name}/${attribute}`, "utf8").catch(() => "");
    if (is.trim() === value && existsSync(`/dev/${name}`)) return name;
  }
  return undefined;
}
