import * as z from "zod";
import { resourceHandle } from "../../agent/driver/resource.ts";
import { defineInterface, streaming, unary } from "../../agent/driver/interface.ts";
import type { FlashReceipt } from "../../agent/driver/receipt.ts";

const path = z.string().max(4096);
const fd = z.uuid();
const handle = resourceHandle;
const nothing = z.null();
const flag = z.boolean();
const sizeLimit = z.int().nullable();

/** What a store can do; the keys are those of OpenDAL 0.45, all of them required by clients. */
const capability = z.object({
  stat: flag,
  stat_with_if_match: flag,
  stat_with_if_none_match: flag,
  read: flag,
  read_with_if_match: flag,
  read_with_if_none_match: flag,
  read_with_override_cache_control: flag,
  read_with_override_content_disposition: flag,
  read_with_override_content_type: flag,
  write: flag,
  write_can_multi: flag,
  write_can_empty: flag,
  write_can_append: flag,
  write_with_content_type: flag,
  write_with_content_disposition: flag,
  write_with_cache_control: flag,
  write_multi_max_size: sizeLimit,
  write_multi_min_size: sizeLimit,
  write_total_max_size: sizeLimit,
  create_dir: flag,
  delete: flag,
  copy: flag,
  rename: flag,
  list: flag,
  list_with_limit: flag,
  list_with_start_after: flag,
  list_with_recursive: flag,
  presign: flag,
  presign_read: flag,
  presign_stat: flag,
  presign_write: flag,
  shared: flag,
  blocking: flag,
});
export type Capability = z.output<typeof capability>;

const metadata = z.object({
  content_disposition: z.string().nullable(),
  /** Bytes. */
  content_length: z.int().min(0),
  content_md5: z.string().nullable(),
  content_type: z.string().nullable(),
  etag: z.string().nullable(),
  mode: z.object({ entry_is_file: z.boolean(), entry_is_dir: z.boolean() }),
});
export type Metadata = z.output<typeof metadata>;

const presignedRequest = z.object({
  url: z.string(),
  method: z.string(),
  headers: z.record(z.string(), z.string()),
});
export type PresignedRequest = z.output<typeof presignedRequest>;

const presign = unary({ args: [path, z.number().positive()], result: presignedRequest });

/** Files and directories of a store. Paths are relative to its root; one that ends in `/` is a directory. */
export const opendal = defineInterface({
  driverType: "other",
  client: "jumpstarter_driver_opendal.client.OpendalClient",
  methods: {
    open: unary({ args: [path, z.enum(["rb", "wb"])], result: fd, help: "Open a file for reading or writing" }),
    file_read: unary({ args: [fd, handle], result: nothing, help: "Send the rest of an open file" }),
    file_write: unary({ args: [fd, handle], result: nothing, help: "Append to an open file" }),
    file_seek: unary({
      args: [fd, z.int(), z.union([z.literal(0), z.literal(1), z.literal(2)]).default(0)],
      result: z.int(),
    }),
    file_tell: unary({ args: [fd], result: z.int() }),
    file_close: unary({ args: [fd], result: nothing }),
    file_closed: unary({ args: [fd], result: flag }),
    file_readable: unary({ args: [fd], result: flag }),
    file_seekable: unary({ args: [fd], result: flag }),
    file_writable: unary({ args: [fd], result: flag }),
    stat: unary({ args: [path], result: metadata, help: "Show what a path is" }),
    hash: unary({ args: [path, z.enum(["md5", "sha256"]).default("sha256")], result: z.string() }),
    copy: unary({ args: [path, path], result: nothing, help: "Copy a file" }),
    rename: unary({ args: [path, path], result: nothing, help: "Rename a file" }),
    remove_all: unary({ args: [path], result: nothing, help: "Remove a path and everything below it" }),
    create_dir: unary({ args: [path], result: nothing, help: "Make a directory and its parents; the path ends in /" }),
    delete: unary({ args: [path], result: nothing, help: "Delete a file or an empty directory" }),
    exists: unary({ args: [path], result: flag }),
    list: streaming({ args: [path], item: z.string(), help: "List a directory, or all names with a prefix" }),
    scan: streaming({ args: [path], item: z.string(), help: "List recursively" }),
    presign_stat: presign,
    presign_read: presign,
    presign_write: presign,
    capability: unary({ args: [], result: capability }),
    get_created_resources: unary({ args: [], result: z.array(z.string()) }),
    register_path: unary({ args: [path], result: nothing, help: "Have a path removed with what this lease created" }),
  },
});

const target = z.string().nullish();

/** Takes an image for a board and gives it back. */
export const flasher = defineInterface({
  driverType: "storage",
  client: "jumpstarter_driver_opendal.client.FlasherClient",
  methods: {
    flash: unary({ args: [handle, target], result: nothing, help: "Write an image" }),
    dump: unary({ args: [handle, target], result: nothing, help: "Read the image back" }),
  },
});

const muxMethods = {
  host: unary({ args: [], result: nothing, help: "Connect the storage to the exporter host" }),
  dut: unary({ args: [], result: nothing, help: "Connect the storage to the board" }),
  off: unary({ args: [], result: nothing, help: "Disconnect the storage" }),
  write: unary({ args: [handle], result: nothing, help: "Write an image to the storage" }),
  read: unary({ args: [handle], result: nothing, help: "Read the storage" }),
};

/** Storage that is switched between the host and the board. */
export const storageMux = defineInterface({
  driverType: "storage",
  client: "jumpstarter_driver_opendal.client.StorageMuxClient",
  methods: muxMethods,
});

/** The same calls; this client flashes by switching to the host, writing, and switching to the board. */
export const storageMuxFlasher = defineInterface({
  driverType: "storage",
  client: "jumpstarter_driver_opendal.client.StorageMuxFlasherClient",
  methods: muxMethods,
});

const imageOptions = z.object({
  /** Reads everything back from the medium and compares; as the driver is configured if it is missing. */
  verify: z.boolean().nullish(),
  /** Writes only what differs from what is on the medium; as the driver is configured if it is missing. */
  skip_unchanged: z.boolean().nullish(),
  /** `auto`: compressed data and Android sparse images are known by their first bytes and decoded; `raw`: byte for byte. */
  format: z.enum(["auto", "raw"]).nullish(),
  /** For the receipt: as the user calls the image, without credentials. */
  name: z.string().max(4096).nullish(),
  /** Of the stream as it comes, to tell how long it takes. */
  bytes: z.int().min(0).nullish(),
  /** Where the image is, if it is on the exporter's host: it is not written onto itself. */
  host_path: z.string().max(4096).nullish(),
});
export type ImageOptions = z.input<typeof imageOptions>;

const progress = {
  /** Of this phase. */
  bytes: z.int().min(0),
  total_bytes: z.int().min(0).nullable(),
  /** Estimated, of this phase. */
  remaining_ms: z.int().min(0).nullable(),
};

/** Checked where it is made. */
const receipt = z.custom<FlashReceipt>(
  (value) => (value as Partial<FlashReceipt> | null)?.format === "jumpstarter-agent/flash-receipt/v1",
  "this is no receipt",
);

const writeProgress = z.object({
  phase: z.enum(["write", "sync", "verify", "leeway"]),
  ...progress,
  /** With the last item, also when the flash has failed; the call then fails after it. */
  receipt: receipt.nullable(),
});
export type ImageWriteProgress = z.output<typeof writeProgress>;

const readOptions = z.object({
  /** `android-sparse`: what repeats four bytes, as zeros do, takes no room. */
  format: z.enum(["raw", "android-sparse"]).nullish(),
});

const readProgress = z.object({
  ...progress,
  /** With the last item: SHA-256 of the whole medium, in hex. */
  sha256: z.string().nullable(),
});

/** What our muxes do beside that; Python clients do not call it. */
export const imageStorageMux = defineInterface({
  ...storageMuxFlasher,
  methods: {
    ...muxMethods,
    write_image: streaming({
      args: [handle, handle.nullish(), imageOptions.nullish()],
      item: writeProgress,
      help: "Write an image, with its block map if it has one",
    }),
    read_image: streaming({ args: [handle, readOptions.nullish()], item: readProgress, help: "Read the whole medium" }),
  },
});
