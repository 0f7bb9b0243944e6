/** Boards that take firmware through a disk that is none: the boot ROM of a Pico, and an ST-LINK. */
import { createHash } from "node:crypto";
import { fatFiles, fatImage } from "../fat.ts";
import { uf2Content } from "../firmware.ts";
import { onePartition } from "../loop.ts";
import { cdcAcm } from "./cdc-acm.ts";
import type { DeviceModel } from "./device.ts";
import { massStorage } from "./mass-storage.ts";

const sha256 = (content: Buffer) => createHash("sha256").update(content).digest("hex");
const write10 = 0x2a;
/** Sense key. */
const mediumError = 3;
const partitionOffset = 2048 * 512;

/** An RP2040 in BOOTSEL mode: looks at every sector that is written, whatever file it belongs to, for a block of UF2. */
export function picoBootRom(serial: string) {
  const blocks = new Map<number, Buffer>();
  const state = {
    /** It has all blocks, and would restart now: whoever plays the plug pulls it. */
    isComplete: false,
    /** Of what it has put into its flash. */
    sha256: "",
    deaf: false,
  };
  const disk = massStorage({
    vendor: "RPI",
    product: "RP2",
    command(cdb, data) {
      if (cdb[0] !== write10 || state.deaf) return undefined;
      for (let at = 0; at + 512 <= data.length; at += 512) {
        const block = data.subarray(at, at + 512);
        if (block.readUInt32LE(0) !== 0x0a324655 || block.readUInt32LE(28) !== 0xe48bff56) continue;
        blocks.set(block.readUInt32LE(20), Buffer.from(block));
        if (blocks.size < block.readUInt32LE(24)) continue;
        state.isComplete = true;
        state.sha256 = sha256(uf2Content(Buffer.concat([...blocks.values()])));
      }
      return undefined;
    },
  });
  const info = "UF2 Bootloader v2.0\r\nModel: Raspberry Pi RP2\r\nBoard-ID: RPI-RP2\r\n";
  const volume = fatImage("RPI-RP2", { "INFO_UF2.TXT": info, "INDEX.HTM": "<html>" });
  // With a partition, as the boot ROM has it.
  const medium = Buffer.alloc(partitionOffset + volume.length);
  onePartition(volume.length / 512).copy(medium);
  volume.copy(medium, partitionOffset);
  disk.insert(medium);
  const model: DeviceModel = {
    vendorId: 0x2e8a,
    productId: 0x0003,
    manufacturer: "Raspberry Pi",
    product: "RP2 Boot",
    serial,
    functions: [disk],
  };
  return { model, state };
}

/** A Pico whose firmware has a serial port, and goes to its boot loader when that is opened at 1200 baud and let go. */
export function picoApplication(serial: string) {
  const state = {
    /** It would go to its boot loader now. */
    isTouched: false,
    baudRate: 0,
    /** DTR and RTS after each change: `DTR`, `RTS`, both or neither. */
    lines: [] as string[],
  };
  const port = cdcAcm({ receive: (data) => port.send(data) });
  const model: DeviceModel = {
    vendorId: 0x2e8a,
    productId: 0x000a,
    manufacturer: "Raspberry Pi",
    product: "Pico",
    serial,
    functions: [
      {
        ...port,
        control(setup, data) {
          const hadDtr = port.line.dtr;
          const reply = port.control?.(setup, data);
          state.baudRate = port.line.baudRate;
          const lines = [port.line.dtr ? "DTR" : "", port.line.rts ? "RTS" : ""].join(" ").trim();
          if (state.lines.at(-1) !== lines) state.lines.push(lines);
          if (hadDtr && !port.line.dtr && port.line.baudRate === 1200) state.isTouched = true;
          return reply;
        },
      },
    ],
  };
  return { model, state };
}

/** An ST-LINK on a Nucleo board. */
export function nucleo(serial: string, label: string) {
  const details = "# a board\r\nVersion: 0221\r\nBuild: Jan  2\r\n";
  const disk = massStorage({
    vendor: "MBED",
    product: "microcontroller",
    command(cdb) {
      if (cdb[0] !== write10 || !state.refuses) return undefined;
      state.refused += 1;
      return { sense: [mediumError, 0x0c, 0] };
    },
  });
  const files = () => [...fatFiles(disk.medium ?? Buffer.alloc(0))].filter(([name]) => /\.(BIN|HEX)$/.test(name));
  const fresh = (more: Readonly<Record<string, string>>) =>
    disk.insert(fatImage(label, { "DETAILS.TXT": details, "MBED.HTM": "<html>", ...more }));
  const state = {
    /** It takes no sector more: as one that restarts in the middle of a copy. */
    refuses: false,
    refused: 0,
    /** What has been copied since it was plugged in. */
    get copied() {
      return files().map(([name, content]) => ({ name, bytes: content.length, sha256: sha256(content) }));
    },
    /** As it comes back after a flash: with FAIL.TXT, or (empty) without. */
    set failure(text: string) {
      fresh(text === "" ? {} : { "FAIL.TXT": text });
    },
  };
  fresh({});
  const model: DeviceModel = {
    vendorId: 0x0483,
    productId: 0x374b,
    manufacturer: "STMicroelectronics",
    product: "STM32 STLink",
    serial,
    functions: [disk],
  };
  return { model, state };
}
