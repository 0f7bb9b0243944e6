// Boards whose disk takes firmware, as USB devices that look at what is written to them: nobody has mounted them.
import { nucleo, picoApplication, picoBootRom } from "../../sim/usbip/board-disks.ts";
import { serveLab } from "./lib/usb-lab.ts";

const isLab = serveLab(() => ({
  application: picoApplication("PICO1"),
  bootrom: picoBootRom("E0C9125B0D9B"),
  deaf: picoBootRom("E0C9125B0D9C"),
  nucleo1: nucleo("0669FF1", "NOD_F411RE"),
  nucleo2: nucleo("0669FF2", "DIS_F469NI"),
}));
// The lab needs nothing of an exporter, and starts faster without.
if (!isLab) await import("./usb/volumes.ts");
