// YKUSH and NOYITO boards as USB devices that speak their bytes, and ports of a hub that QEMU plays.
import { dutlink } from "../../sim/usbip/dutlink.ts";
import { noyitoHid } from "../../sim/usbip/noyito-hid.ts";
import { ykush } from "../../sim/usbip/ykush.ts";
import { serveLab } from "./lib/usb-lab.ts";

const isLab = serveLab(() => {
  const board = dutlink("a1b2c3d4");
  return {
    dutlink: { model: board.board, state: board.state },
    ykush1: ykush("YK1"),
    ykush2: ykush("YK2"),
    twin1: ykush(undefined),
    twin2: ykush(undefined),
    noyito: noyitoHid(8),
  };
});
// The lab needs nothing of an exporter, and starts faster without.
if (!isLab) await import("./usb/relays.ts");
