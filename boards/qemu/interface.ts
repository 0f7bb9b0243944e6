import * as z from "zod";
import { defineInterface, streaming, unary } from "../../agent/driver/interface.ts";
import { resourceHandle } from "../../agent/driver/resource.ts";
import { flasher } from "../storage/interface.ts";

const text = (help: string) => unary({ args: [], result: z.string(), help });
const size = (help: string) => unary({ args: [z.string().max(64)], result: z.null(), help });

/** A virtual machine, beside what its children do. */
export const qemu = defineInterface({
  driverType: "composite",
  client: "jumpstarter_driver_qemu.client.QemuClient",
  methods: {
    get_hostname: text("Name of the guest, as cloud-init sets it"),
    get_username: text("User that cloud-init makes"),
    get_password: text("Password of that user"),
    set_disk_size: size("Size of the root disk from the next start on"),
    set_memory_size: size("Size of the memory from the next start on"),
  },
});

const partition = z.string().nullish();

/** What a command prints, piece by piece, and its exit status at last. */
const output = z.tuple([z.string(), z.string(), z.number().nullable()]);

/** Takes images for a virtual machine; the target is a partition. */
export const qemuFlasher = defineInterface({
  ...flasher,
  client: "jumpstarter_driver_qemu.client.QemuFlasherClient",
  methods: {
    ...flasher.methods,
    flash: unary({
      args: [z.union([resourceHandle, z.string()]), partition],
      result: z.null(),
      help: "Write an image, which a client lends or an oci:// reference names",
    }),
    flash_oci: streaming({
      args: [z.string(), partition, z.string().nullish(), z.string().nullish()],
      item: output,
      help: "Write an image from a registry: reference, partition, user name, password",
    }),
  },
});
