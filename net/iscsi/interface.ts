import * as z from "zod";
import { defineInterface, unary } from "../../agent/driver/interface.ts";

const name = z.string().describe("name of the LUN");
const path = z.string().max(4096);
const nothing = z.null();

const lun = z.object({
  name: z.string(),
  /** Of the file or the block device on the exporter. */
  path: z.string(),
  /** Bytes. */
  size: z.int(),
  lun_id: z.int(),
  is_block: z.boolean(),
});
export type Lun = z.output<typeof lun>;

/** An iSCSI target whose disks are files of its child `storage`, or block devices of the exporter. */
export const iscsi = defineInterface({
  driverType: "storage",
  client: "jumpstarter_driver_iscsi.client.ISCSIServerClient",
  methods: {
    start: unary({ args: [], result: nothing, help: "Start the iSCSI target" }),
    stop: unary({ args: [], result: nothing, help: "Stop the iSCSI target and take its LUNs away" }),
    get_host: unary({ args: [], result: z.string(), help: "Address of the target" }),
    get_port: unary({ args: [], result: z.int(), help: "TCP port of the target" }),
    get_target_iqn: unary({ args: [], result: z.string(), help: "Name of the target" }),
    add_lun: unary({
      args: [
        name,
        path.describe("below the storage root; absolute for a block device"),
        z.int().default(0).describe("size in MiB; 0: that of the file"),
        z.boolean().default(false).describe("true for a block device"),
      ],
      result: z.string(),
      help: "Offer a file or a block device as a LUN",
    }),
    remove_lun: unary({ args: [name], result: nothing, help: "Take a LUN away; its file stays" }),
    list_luns: unary({ args: [], result: z.array(lun), help: "List the LUNs" }),
    clear_all_luns: unary({ args: [], result: nothing, help: "Take all LUNs away; their files stay" }),
    decompress: unary({
      args: [path.describe("compressed file"), path.describe("file to make"), z.string().describe("gz, xz or bz2")],
      result: nothing,
      help: "Decompress a file of the storage root",
    }),
  },
});
