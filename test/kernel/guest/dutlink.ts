// A DUTLink board as a USB device that speaks its bytes, and the storage that it switches.
import { dutlink } from "../../sim/usbip/dutlink.ts";
import { serveLab } from "./lib/usb-lab.ts";

const isLab = serveLab(() => {
  const board = dutlink("a1b2c3d4");
  return {
    dutlink: { model: board.board, state: board.state },
    reader: { model: board.reader, state: {} },
  };
});
// The lab needs nothing of an exporter, and starts faster without.
if (!isLab) await import("./usb/dutlink.ts");
