import type { HostForward, QemuConfig } from "./config.ts";

/** Commas separate QEMU's sub-options; a doubled one stands for itself. */
export const escaped = (value: string): string => value.replaceAll(",", ",,");

/** Formats of a root image that can be started from. */
export const imageFormats = ["raw", "qcow2", "qcow", "vmdk"] as const;
export type ImageFormat = (typeof imageFormats)[number];

export interface QemuFiles {
  readonly bios: string | undefined;
  readonly ovmf: { readonly code: string; readonly vars: string } | undefined;
  readonly root: { readonly path: string; readonly format: ImageFormat } | undefined;
}

export interface QemuWords {
  readonly config: Pick<QemuConfig, "arch" | "cpu" | "smp"> & {
    readonly hostfwd: Readonly<Record<string, HostForward>>;
  };
  readonly kvm: boolean;
  /** As `-m` takes it. */
  readonly memory: string;
  /** Holds the sockets and `cidata/`. */
  readonly directory: string;
  /** Address of the guest among the virtual sockets of this host; undefined where there are none. */
  readonly cid: number | undefined;
  readonly files: QemuFiles;
}

const machines: Readonly<Record<string, readonly string[]>> = {
  aarch64: ["-machine", "virt"],
  x86_64: ["-machine", "q35"],
};
const emulated: Readonly<Record<string, string>> = {
  aarch64: "cortex-a57",
  x86_64: "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt",
};

export const socketsOf = (directory: string) => ({ qmp: `${directory}/qmp`, vnc: `${directory}/vnc` });

/**
 * QEMU's command line, word by word as the Python driver makes it. But ours starts stopped (`-S`), so that the
 * console is listened to before the guest's first word; Python's is reset for that.
 */
export function qemuWords({
  config,
  kvm,
  memory,
  directory,
  cid,
  files,
}: QemuWords): [program: string, args: string[]] {
  const { arch, smp, hostfwd } = config;
  const sockets = socketsOf(directory);
  const args = ["-nodefaults", "-nographic"];
  if (kvm) args.push("-accel", "kvm");
  args.push(...(machines[arch] ?? []));
  args.push("-cpu", config.cpu ?? (kvm ? "host" : (emulated[arch] ?? "max")));
  args.push("-qmp", `unix:${escaped(sockets.qmp)},server=on,wait=off`);
  args.push("-smp", `${smp}`, "-m", memory);
  args.push("-vnc", `unix:${escaped(sockets.vnc)}`, "-vga", "none", "-serial", "pty");
  const forwards = Object.values(hostfwd).map(
    ({ protocol, hostaddr, hostport, guestport }) => `,hostfwd=${protocol}:${hostaddr}:${hostport}-:${guestport}`,
  );
  args.push("-netdev", `user,id=eth0${forwards.join("")}`);
  args.push("-device", "virtio-net-pci,netdev=eth0", "-device", "virtio-gpu-pci");
  if (cid !== undefined) args.push("-device", `vhost-vsock-pci,guest-cid=${cid}`);
  if (files.bios !== undefined) args.push("-bios", files.bios);
  if (files.ovmf !== undefined) {
    const { code, vars } = files.ovmf;
    args.push("-drive", `file=${escaped(code)},if=pflash,format=raw,unit=0,readonly=on`);
    args.push("-drive", `file=${escaped(vars)},if=pflash,format=raw,unit=1,snapshot=on,readonly=off`);
  }
  if (files.root !== undefined) {
    const { path, format } = files.root;
    const file = `file.driver=file,file.filename=${escaped(path)}`;
    args.push("-blockdev", `driver=${format},node-name=rootfs,${file}`);
    args.push("-device", "virtio-blk-pci,drive=rootfs,bootindex=1");
  }
  const cidata = escaped(`${directory}/cidata`);
  args.push("-blockdev", `driver=vvfat,node-name=cidata,read-only=on,dir=${cidata},label=CIDATA`);
  args.push("-device", "virtio-blk-pci,drive=cidata", "-S");
  return [`qemu-system-${arch}`, args];
}
