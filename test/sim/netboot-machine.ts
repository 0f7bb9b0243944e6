import { Duplex, type Readable, type Writable } from "node:stream";
import { ConsoleDialog } from "../../bundles/flash/console.ts";
import { lan, type Lan } from "./lan.ts";

/** What brings a machine into the network. `bios` is SeaBIOS with iPXE in the card's ROM. */
export type Firmware = "u-boot-aarch64" | "u-boot-x86" | "u-boot-x86_64" | "bios" | "uefi-pxe" | "uefi-http";

interface Model {
  readonly program: string;
  /** Processor, machine, firmware. */
  readonly words: readonly string[];
  readonly card: string;
}

const uefiCode = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const uefiVariables = "/usr/share/OVMF/OVMF_VARS_4M.fd";
const uboot = (board: string) => `/usr/lib/u-boot/${board}`;

const pc = (...words: string[]) => ["-cpu", "qemu64", ...words];
const uefi = (...words: string[]): Model => ({
  program: "qemu-system-x86_64",
  words: pc("-M", "q35", "-drive", `if=pflash,format=raw,unit=0,readonly=on,file=${uefiCode}`).concat(
    // What the firmware notes there goes with the machine.
    ["-drive", `if=pflash,format=raw,unit=1,snapshot=on,file=${uefiVariables}`],
    words,
  ),
  card: "virtio-net-pci,romfile=",
});
// U-Boot's x86 builds have no driver for virtio cards.
const ubootX86 = (board: string): Model => ({
  program: "qemu-system-x86_64",
  words: pc("-M", "pc", "-bios", uboot(board)),
  card: "e1000,romfile=",
});

const models: Readonly<Record<Firmware, Model>> = {
  "u-boot-aarch64": {
    program: "qemu-system-aarch64",
    words: ["-M", "virt", "-cpu", "cortex-a57", "-bios", uboot("qemu_arm64/u-boot.bin")],
    card: "virtio-net-pci,romfile=",
  },
  "u-boot-x86": ubootX86("qemu-x86/u-boot.rom"),
  "u-boot-x86_64": ubootX86("qemu-x86_64/u-boot.rom"),
  // Without graphics they speak on the serial port. The ROM is QEMU's own choice.
  bios: { program: "qemu-system-x86_64", words: pc("-M", "pc,graphics=off", "-boot", "n"), card: "virtio-net-pci" },
  "uefi-pxe": uefi(),
  // It would try PXE before, and for minutes.
  "uefi-http": uefi(
    ...["IPv4PXESupport", "IPv6PXESupport"].flatMap((name) => ["-fw_cfg", `name=opt/org.tianocore/${name},string=n`]),
  ),
};

/** Programs and files that must be there for it. */
export const machineNeeds: readonly string[] = [
  "qemu-system-x86_64",
  uefiCode,
  uboot("qemu-x86_64/u-boot.rom"),
  "/usr/lib/ipxe/qemu/efi-virtio.rom",
  "/usr/lib/ipxe/ipxe.pxe",
];

export interface Machine {
  readonly console: ConsoleDialog;
  /** All it has said. */
  transcript(): string;
}

const tap = "tap0";

/** Switches a machine on that has nothing to boot from but this LAN. It ends with the test. One on a LAN. */
export async function switchOn({ host }: Lan, firmware: Firmware): Promise<Machine> {
  await host.run("ip", ["tuntap", "add", tap, "mode", "tap"]);
  await host.run("ip", ["link", "set", tap, "master", lan.device, "up"]);
  const { program, words, card } = models[firmware];
  const args = [...words, "-accel", "tcg,thread=multi", "-m", "1024", "-nodefaults", "-display", "none"].concat(
    ["-monitor", "none", "-serial", "stdio", "-netdev", `tap,id=lan,ifname=${tap},script=no,downscript=no`],
    ["-device", `${card},netdev=lan,mac=52:54:00:12:34:56`],
  );
  const child = host.spawn(program, args, { stdio: ["pipe", "pipe", "pipe"] });
  let said = "";
  child.stderr?.on("data", (chunk: Buffer) => (said += chunk.toString()));
  const stream = Duplex.from({ readable: child.stdout as Readable, writable: child.stdin as Writable });
  const console = new ConsoleDialog(stream, { transcript: (chunk) => (said += chunk.toString()) });
  return { console, transcript: () => said };
}
