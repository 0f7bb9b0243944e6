import { missingPrograms } from "../../scripts/programs.mjs";
import type { DriverEntry } from "../../agent/driver/entry.ts";

export const uboot = "/usr/lib/u-boot/qemu_arm64/u-boot.bin";

/** For `skip`: why no virtual machine can run here, or false. Never a reason in CI. */
export function noQemu(more: readonly string[] = []): string | false {
  const missing = missingPrograms(["qemu-system-aarch64", "qemu-system-x86_64", "qemu-img", ...more]);
  if (missing.length === 0) return false;
  const reason = `virtual machines need ${missing.join(", ")}`;
  if (process.env["CI"]) throw new Error(reason);
  return reason;
}

/** A Qemu that is emulated, wherever it runs: many nested hosts offer a KVM that boots nothing. */
export function qemuEntry(config: Record<string, unknown> = {}): DriverEntry {
  return { type: "jumpstarter_driver_qemu.driver.Qemu", config: { arch: "aarch64", accel: "tcg", ...config } };
}

/** Its firmware is U-Boot, which speaks on the console half a second later. */
export const withUboot = { default_partitions: { bios: uboot } };
