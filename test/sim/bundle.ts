import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import type { TestContext } from "node:test";

/** Manifest of a flasher bundle as labs write them, with every optional part. */
export const bundleManifest = `\
apiVersion: jumpstarter.dev/v1alpha1
kind: FlashBundleManifest
metadata:
  name: simulated
spec:
  manufacturer: Nobody
  link: null
  bootcmd: "booti 0x82000000 - 0x84000000"
  default_target: usd
  login: { type: busybox, login_prompt: "login:", username: root, password: password, prompt: "#" }
  targets:
    usd: "/sys/class/block#4fb0000"
    emmc: "/sys/class/block#4f80000"
  preflash_commands: ["dd if=/dev/zero of=/dev/mmcblk0 bs=512 count=34"]
  kernel: { file: data/kernel, address: "0x82000000" }
  initram: { file: data/initramfs, address: "0x83000000" }
  dtb:
    default: test-dtb
    address: "0x84000000"
    variants:
      test-dtb: { file: data/dtbs/test-dtb.dtb }
      alternate: { file: data/dtbs/alternate.dtb }
      othercmd: { bootcmd: bootm }
`;

/** Its files: zeros of 1, 2 and 3 KiB, and an alternate device tree that can be told apart. */
export const bundleFiles: Record<string, Uint8Array> = {
  "manifest.yaml": Buffer.from(bundleManifest),
  "data/kernel": Buffer.alloc(1024),
  "data/initramfs": Buffer.alloc(2048),
  "data/dtbs/test-dtb.dtb": Buffer.alloc(3072),
  "data/dtbs/alternate.dtb": Buffer.alloc(3072, 1),
};

/** @param parent e.g. `/dev/shm` for what no real disk has to see */
export async function temporaryDirectory(t: TestContext, parent = tmpdir()): Promise<string> {
  const directory = await mkdtemp(join(parent, "bundle-"));
  t.after(() => rm(directory, { recursive: true, force: true }));
  return directory;
}

/** Writes files below a new directory, removed after the test. */
export async function writeFiles(t: TestContext, files: Record<string, Uint8Array | string>): Promise<string> {
  const directory = await temporaryDirectory(t);
  for (const [path, content] of Object.entries(files)) {
    await mkdir(dirname(join(directory, path)), { recursive: true });
    await writeFile(join(directory, path), content);
  }
  return directory;
}
