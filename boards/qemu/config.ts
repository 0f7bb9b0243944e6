import { isIPv4 } from "node:net";
import * as z from "zod";
import * as lax from "../../agent/driver/lax.ts";
import pySerial from "../serial/driver.ts";
import { parseSize } from "./sizes.ts";

/** Files that can be flashed. The first is meant when none is named. */
export const partitions = ["root", "bios", "OVMF_CODE.fd", "OVMF_VARS.fd"] as const;
export type Partition = (typeof partitions)[number];

/** Names of the children that are always there. */
const builtIn: readonly string[] = ["power", "flasher", "console", "vnc"];

/** Where QEMU puts its sockets: their paths may have 107 bytes. */
const longestWorkDirectory = 70;

const hostForward = z.strictObject({
  protocol: z.literal("tcp").default("tcp"),
  hostaddr: z
    .string()
    .refine((address) => isIPv4(address), "must be an IPv4 address of this host")
    .default("127.0.0.1"),
  hostport: lax.port(),
  guestport: lax.port(),
});
export type HostForward = z.output<typeof hostForward>;

const hostArch = process.arch === "arm64" ? "aarch64" : "x86_64";

/** `config:` of a Qemu. */
export const qemuConfig = z
  .strictObject({
    arch: z
      .string()
      .regex(/^[a-z0-9_]+$/, "must be a processor as QEMU names it")
      .default(hostArch)
      .describe("which qemu-system-* is started; default is the processor of this host"),
    cpu: z.string().min(1).nullable().default(null).describe("null: host with KVM, else a common one"),
    smp: lax.int(1, 1_024).prefault(2).describe("number of processors"),
    mem: z
      .union([z.string().min(1), z.number().transform(String)])
      .default("512M")
      .describe("memory, as QEMU's -m takes it"),
    disk_size: z
      .string()
      .refine((size) => parseSize(size) !== undefined, "is no size: write 20G or 512M")
      .nullable()
      .default(null)
      .describe("the root image is made that large before the machine starts"),
    hostname: z.string().default("demo"),
    username: z.string().default("jumpstarter"),
    password: z
      .union([z.string(), z.number().transform(String)])
      .default("password")
      .describe("of the user that cloud-init makes"),
    default_partitions: z
      .partialRecord(z.enum(partitions), z.string().min(1))
      .default({})
      .describe("files to start from as long as nothing was flashed in their place"),
    hostfwd: z
      .record(z.string().min(1), hostForward)
      .default({})
      .superRefine((forwards, context) => {
        for (const name of builtIn) {
          if (!Object.hasOwn(forwards, name)) continue;
          context.addIssue({
            code: "custom",
            path: [name],
            message: "is the name of another child: choose another one",
          });
        }
      })
      .describe("TCP ports of the guest, each as a child with this name"),
    fls_version: z
      .string()
      .regex(/^[\w.+-]+$/)
      .nullable()
      .default(null)
      .describe("release of fls to download; null: from PATH"),
    fls_allow_custom_binaries: lax.boolean().prefault(false),
    fls_custom_binary_url: z
      .url({ protocol: /^https?$/ })
      .nullable()
      .default(null),
    flash_timeout: lax.number().pipe(z.number().positive()).prefault(1_800).describe("seconds that fls may take"),
    launcher_socket: z
      .null(
        "running QEMU in another container (launcher_socket) is not supported: leave it out, QEMU runs beside the agent",
      )
      .default(null),
    // Ours alone.
    oci_registry: z
      .string()
      .min(1)
      .nullable()
      .default(null)
      .describe(
        "HOST or HOST:PORT of the registry that OCI_USERNAME and OCI_PASSWORD of the exporter are for; no other gets them",
      ),
    accel: z
      .enum(["auto", "kvm", "tcg"])
      .default("auto")
      .describe(
        "auto: KVM for the host's own processor, if it may be used; some nested hosts offer a KVM that boots nothing",
      ),
    work_dir: z
      .string()
      .startsWith("/", "must be an absolute path")
      .max(longestWorkDirectory)
      .nullable()
      .default(null)
      .describe(
        "where images and sockets are kept in a folder of their own during a lease; null: the temporary directory",
      ),
    shutdown_grace: lax
      .number()
      .pipe(z.number().min(0).max(600))
      .prefault(0)
      .describe("seconds that a guest has to shut down by itself (ACPI) before its power is cut; 0: cut at once"),
    legacy_flasher_client: lax.boolean().prefault(false).describe("report the flasher as clients before 0.9 know it"),
    record: pySerial.config.shape.record,
  })
  .refine(({ arch, cpu }) => arch === "x86_64" || arch === "aarch64" || cpu !== null, {
    path: ["cpu"],
    message: "must be given for this arch",
  });
export type QemuConfig = z.output<typeof qemuConfig>;
