// What the kernel starts with: busybox, the drivers of disks, and image/init.
import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { cpio } from "../bundle/cpio.mjs";
import { modulesOf } from "../bundle/initramfs.mjs";

/** With the checksums of ext4, which it asks the kernel for by name. */
const fileSystems = ["crc32c_generic", "squashfs", "overlay", "ext4", "vfat", "nls_cp437", "nls_ascii"];

/** Folders of the kernel's drivers, or single ones of a folder. */
const disks = {
  both: [
    ...["ata/ahci", "ata/ahci_platform", "ata/ata_piix", "nvme/host", "block/virtio_blk", "virtio", "mmc"],
    ...["scsi/sd_mod", "scsi/virtio_scsi", "usb/host", "usb/storage/usb-storage", "usb/storage/uas"],
  ],
  amd64: [],
  // There, clocks, regulators, pins and buses have drivers of their own, and no disk works without.
  arm64: [
    ...["clk", "regulator", "reset", "pinctrl", "gpio", "firmware", "soc", "pci/controller", "phy", "dma", "mailbox"],
    ...["i2c/busses", "usb/dwc2", "usb/dwc3", "usb/chipidea", "mfd", "nvmem", "iommu"],
  ],
};

/** @param kernel folder that the kernel's package is unpacked in; @param work for what is in between */
export function initramfs({ kernel, busybox, init, architecture, version, work }) {
  const drivers = join(kernel, "usr/lib/modules", version, "kernel/drivers");
  const wanted = [...disks.both, ...disks[architecture]].flatMap((path) => driversIn(drivers, path));
  const modules = modulesOf(kernel, [...fileSystems, ...wanted]);
  const index = indexOf(modules, version, join(work, "modules"));
  const home = `lib/modules/${version}`;
  const folders = ["bin", "dev", "lib", "lib/modules", home, "proc", "root", "sys", "tmp"];
  const archive = cpio([
    ...folders.map((path) => ({ path })),
    { path: "bin/busybox", content: readFileSync(join(busybox, "usr/bin/busybox")), mode: 0o755 },
    { path: "init", content: init, mode: 0o755 },
    ...modules.map(({ name, content }) => ({ path: `${home}/${name}.ko`, content })),
    ...index.map(({ name, content }) => ({ path: `${home}/${name}`, content })),
  ]);
  return execFileSync("zstd", ["-19", "-q", "-c"], { input: archive, maxBuffer: 2 ** 28 });
}

function driversIn(drivers, path) {
  const name = path.slice(path.lastIndexOf("/") + 1);
  let files;
  try {
    files = readdirSync(join(drivers, path), { recursive: true });
  } catch {
    return [name.replaceAll("-", "_")];
  }
  return files.flatMap((file) => /([^/]+)\.ko(\.xz)?$/.exec(file)?.[1]?.replaceAll("-", "_") ?? []).sort();
}

/** Which module needs which, and which one is for which device, as modprobe reads it. */
function indexOf(modules, version, folder) {
  const home = join(folder, "lib/modules", version);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(home, { recursive: true });
  for (const { name, content } of modules) writeFileSync(join(home, `${name}.ko`), content);
  execFileSync("/usr/sbin/depmod", ["-b", folder, version], { stdio: ["ignore", "ignore", "pipe"] });
  return ["modules.dep", "modules.alias"].map((name) => ({ name, content: readFileSync(join(home, name)) }));
}
