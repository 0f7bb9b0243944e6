// SD muxes with their real bytes, and a real disk that comes and goes as they turn.
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable, Writable } from "node:stream";
import { test } from "node:test";
import type { RemoteNode } from "../../../agent/client/node.ts";
import { listUsbDevices, nodesBelow } from "../../../agent/sys/usb-devices.ts";
import { imageStorageMux } from "../../../boards/storage/interface.ts";
import { sdMux, simCard } from "../../sim/usbip/card-mux.ts";
import { plugUsb } from "../../sim/usbip/plug.ts";
import { exporter } from "./lib/exporter.ts";
import { cardBytes, diskAt, loadModules, quick, sdWire } from "./lib/muxes.ts";
import { exec, modprobe, waitFor } from "./lib/system.ts";

const mebi = 2 ** 20;
const write10 = 0x2a;

test.before(loadModules);

async function flash(node: RemoteNode, image: Buffer): Promise<void> {
  const calls = node.as(imageStorageMux);
  const pieces = Readable.from(cut(image), { objectMode: false });
  await node.lendSource(pieces, (handle) => calls.write(handle));
}

function* cut(image: Buffer) {
  for (let start = 0; start < image.length; start += 65_536) yield image.subarray(start, start + 65_536);
}

async function dump(node: RemoteNode): Promise<Buffer> {
  const pieces: Buffer[] = [];
  const sink = new Writable({
    write(piece: Buffer, _encoding, done) {
      pieces.push(piece);
      done();
    },
  });
  await node.lendSink(sink, (handle) => node.as(imageStorageMux).read(handle));
  return Buffer.concat(pieces);
}

test("an SDWire is switched, flashed and dumped; a chip that does not move is told", async (t) => {
  const { card, chip, plug, storage, calls } = await sdWire(t);
  await calls.host();
  assert.equal(card.isAtHost, true);
  await calls.dut();
  assert.equal(card.isAtHost, false);
  await calls.off();
  assert.equal(card.isAtHost, true, "an SDWire has no third side");
  await calls.dut();

  const image = randomBytes(mebi + 100);
  await flash(storage, image);
  assert.equal(card.isAtHost, true);
  assert.ok(card.medium.subarray(0, image.length).equals(image));
  assert.ok(card.medium.subarray(image.length).equals(Buffer.alloc(cardBytes - image.length)));
  await calls.dut();
  assert.ok((await dump(storage)).equals(card.medium));

  chip.isProgrammed = false;
  await assert.rejects(calls.dut(), (error: Error) => {
    assert.match(
      error.message,
      /^04e8:6001 sd-wire, serial sd-wire_11, at .* did not switch to the dut: the card is still at the host/,
    );
    return true;
  });
  chip.isProgrammed = true;
  await plug.unplug();
  await assert.rejects(calls.dut(), { category: "unavailable", message: /sd-wire/ });
  await plug.plug();
  await waitFor("it is back", () => calls.dut().then(() => true));
});

test("a card that keeps other bytes than it was given fails the flash; errors that pass do not", async (t) => {
  let lies = false;
  let failures = 0;
  const { card, storage } = await sdWire(t, {
    command(cdb, data) {
      if (cdb[0] === write10 && failures > 0) {
        failures -= 1;
        return { sense: [3, 0x0c, 0] };
      }
      if (
        cdb[0] === write10 &&
        lies &&
        cdb.readUInt32BE(2) <= 2048 &&
        cdb.readUInt32BE(2) + cdb.readUInt16BE(7) > 2048
      ) {
        data = Buffer.from(data);
        const at = (2048 - cdb.readUInt32BE(2)) * 512;
        data[at] = (data[at] ?? 0) ^ 1;
        data.copy(card.medium, cdb.readUInt32BE(2) * 512);
        return { data: Buffer.alloc(0) };
      }
      return undefined;
    },
  });
  const image = randomBytes(2 * mebi);
  lies = true;
  await assert.rejects(flash(storage, image), {
    message: /holds other bytes than were written to it: bytes 1048576 to 2097151 differ/,
  });
  lies = false;
  failures = 1;
  await flash(storage, image);
  assert.equal(failures, 0);
  assert.ok(card.medium.subarray(0, image.length).equals(image));
  failures = 1_000;
  await assert.rejects(flash(storage, image), { message: /^write of \/dev\/sd.* at byte \d+ failed in 4 attempts/ });
});

test("a medium that goes away in the middle, or is mounted, is told by its name", async (t) => {
  let writes = 0;
  const { card, disk, storage, calls } = await sdWire(t, {
    command(cdb) {
      if (cdb[0] !== write10 || (writes += 1) !== 8) return undefined;
      card.isAtHost = false;
      return { sense: [2, 0x3a, 0] };
    },
  });
  await assert.rejects(flash(storage, randomBytes(3 * mebi)), {
    message:
      /^the medium of \/dev\/sd.* \(Generic Ultra HS-SD\/MMC, 4\.2 MB\) has gone while it was written, at byte \d+$/,
  });
  writes = 100;
  await calls.host();
  await flash(storage, randomBytes(mebi));

  await exec("mke2fs", "-q", "-t", "ext4", disk);
  const folder = mkdtempSync(join(tmpdir(), "mounted-"));
  await modprobe("ext4");
  // One that may be written is written to by the kernel itself, whenever it likes.
  await exec("mount", "-o", "ro", disk, folder);
  try {
    const before = createHash("sha256").update(card.medium).digest("hex");
    await assert.rejects(flash(storage, randomBytes(mebi)), {
      message: new RegExp(`${disk} is mounted at ${folder}$`),
    });
    assert.equal(createHash("sha256").update(card.medium).digest("hex"), before);
  } finally {
    await exec("umount", folder);
    rmSync(folder, { recursive: true });
  }
});

test("an SDWire3 gives its card to the board when the kernel lets go of it", async (t) => {
  const card = simCard(cardBytes, { vendor: "Realtek", product: "SD Reader" });
  card.isAtHost = true;
  const { path } = await plugUsb(t, {
    vendorId: 0x0bda,
    productId: 0x0316,
    serial: "20120501030900000",
    functions: [card.reader],
  });
  await diskAt(path);
  const guest = await exporter(t, { storage: { type: "jumpstarter_agent.SDWire3", config: { path, ...quick } } });
  const calls = guest.node("storage").as(imageStorageMux);
  const drivers = async () =>
    (await listUsbDevices()).find((one) => one.path === path)?.interfaces.map(({ driver }) => driver);
  await calls.dut();
  assert.deepEqual(await drivers(), [undefined]);
  const image = randomBytes(mebi);
  await flash(guest.node("storage"), image);
  assert.deepEqual(await drivers(), ["usb-storage"]);
  assert.ok(card.medium.subarray(0, image.length).equals(image));
  await calls.dut();
  assert.deepEqual(await drivers(), [undefined]);
});

for (const kind of ["classic", "fast"] as const) {
  test(`a USB-SD-Mux (${kind}) is switched by its expander, in the order of its maker`, async (t) => {
    const mux = sdMux(kind, cardBytes);
    const { path } = await plugUsb(t, mux.model);
    await diskAt(path);
    await waitFor("its SCSI generic device", async () => {
      const device = (await listUsbDevices()).find((one) => one.path === path);
      return device === undefined ? undefined : (await nodesBelow(device, "scsi_generic"))[0];
    });
    const guest = await exporter(t, {
      storage: { type: "jumpstarter_agent.UsbSdMux", config: { serial: "000000000042", ...quick } },
    });
    const storage = guest.node("storage");
    const calls = storage.as(imageStorageMux);
    const image = randomBytes(mebi + 1);
    await flash(storage, image);
    assert.ok(mux.card.medium.subarray(0, image.length).equals(image));
    assert.equal(mux.card.isAtHost, true);
    const writes = mux.writes.length;
    await calls.host();
    assert.equal(mux.writes.length, writes, "it is there already");
    await calls.dut();
    const last = mux.writes.slice(writes).map(([register, value]) => [register, value & 0x0f]);
    assert.deepEqual(
      last,
      (kind === "classic" ? [0x0b, 0x0f, 0x0c] : [0x0e, 0x0f, 0x09]).map((value) => [1, value]),
    );
    await calls.off();
    assert.equal(mux.card.isAtHost, false);
    await calls.host();
    assert.ok((await dump(storage)).subarray(0, image.length).equals(image));
    assert.deepEqual(mux.faults, []);
  });
}
