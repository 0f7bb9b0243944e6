import * as z from "zod";
import { escaped } from "../arguments.ts";

const unitBytes: Readonly<Record<string, number>> = { "": 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 };

/** A size as QEMU writes it, `512M` or `1.5G` (units of 1024), in bytes. */
const sizeInBytes = z.string().transform((text, context) => {
  const [, number = "", unit = ""] = /^(\d+(?:\.\d+)?)([KMGT]?)$/i.exec(text) ?? [];
  const bytes = Math.floor(Number(number) * (unitBytes[unit.toUpperCase()] ?? NaN));
  if (number !== "" && bytes > 0) return bytes;
  context.addIssue({ code: "custom", message: `not a size: '${text}'; write 512M or 20G` });
  return z.NEVER;
});

/** `config:` of a VirtualBoard. */
export const virtualBoardConfig = z.strictObject({
  arch: z.enum(["aarch64", "x86_64"]).default("aarch64").describe("processor of the board"),
  disk: z.string().min(1).describe("disk image (raw); made when the board is first switched on"),
  disk_size: sizeInBytes.prefault("1G").describe("size of a disk that has to be made; it takes no space until written"),
  memory: sizeInBytes.prefault("1G").describe("main memory"),
  firmware: z.string().optional().describe("what the board starts; default is Debian's U-Boot (u-boot-qemu)"),
  network: z
    .union([z.enum(["user", "none"]), z.strictObject({ tap: z.string().regex(/^[\w.-]{1,15}$/) })])
    .default("user")
    .describe("user: QEMU's own NAT and DHCP; tap: an existing tap interface of the host; none: no network card"),
  mac: z
    .string()
    .regex(/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i)
    .default("52:54:00:12:34:56")
    .describe("address of the network card"),
  accel: z
    .enum(["tcg", "kvm"])
    .default("tcg")
    .describe("tcg emulates the processor and works everywhere; many nested hosts offer a kvm that boots nothing"),
});
export type VirtualBoardConfig = z.output<typeof virtualBoardConfig>;

/** What differs between the architectures. x86 U-Boot has a driver for e1000 but not for virtio-net. */
const arches = {
  aarch64: {
    program: "qemu-system-aarch64",
    debianPackage: "qemu-system-arm",
    firmware: "/usr/lib/u-boot/qemu_arm64/u-boot.bin",
    machine: "virt",
    cpu: "cortex-a57",
    nic: "virtio-net-pci",
  },
  x86_64: {
    program: "qemu-system-x86_64",
    debianPackage: "qemu-system-x86",
    firmware: "/usr/lib/u-boot/qemu-x86_64/u-boot.rom",
    machine: "pc",
    cpu: "qemu64",
    nic: "e1000",
  },
} as const;

export interface QemuCommand {
  program: string;
  args: string[];
  firmware: string;
  /** What brings the program and the firmware on Debian. */
  debianPackages: string[];
}

/** The QEMU command line of a board whose console is a client of the unix socket `consolePath`. */
export function qemuCommand(config: VirtualBoardConfig, consolePath: string): QemuCommand {
  const arch = arches[config.arch];
  const firmware = config.firmware ?? arch.firmware;
  const args = ["-nodefaults", "-display", "none", "-monitor", "none", "-qmp", "stdio"];
  args.push("-M", arch.machine, "-m", `${Math.ceil(config.memory / 2 ** 20)}M`, "-bios", firmware);
  args.push("-accel", config.accel === "kvm" ? "kvm" : "tcg,thread=multi");
  args.push("-cpu", config.accel === "kvm" ? "host" : arch.cpu);
  args.push("-chardev", `socket,id=console,path=${escaped(consolePath)}`, "-serial", "chardev:console");
  if (config.network !== "none") {
    const backend =
      config.network === "user" ? "user,id=net" : `tap,id=net,ifname=${config.network.tap},script=no,downscript=no`;
    // Without romfile= QEMU looks for an iPXE image that may not be installed and is not wanted here.
    args.push("-netdev", backend, "-device", `${arch.nic},netdev=net,mac=${config.mac},romfile=`);
  }
  args.push(
    "-drive",
    `file=${escaped(config.disk)},format=raw,if=none,id=disk`,
    "-device",
    "virtio-blk-pci,drive=disk",
  );
  return { program: arch.program, args, firmware, debianPackages: [arch.debianPackage, "u-boot-qemu"] };
}
