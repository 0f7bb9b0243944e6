import * as z from "zod";
import { defineInterface, unary } from "../../agent/driver/interface.ts";
import { resourceHandle } from "../../agent/driver/resource.ts";

/**
 * Netboots a board into a small system and flashes it from there. The exporter provides the bundle and the
 * boot services; the steps on the board's console are the client's. Every getter may pull the bundle first.
 */
export const flasher = defineInterface({
  driverType: "storage",
  client: "jumpstarter_driver_flashers.client.BaseFlasherClient",
  methods: {
    setup_flasher_bundle: unary({
      args: [z.string().nullish()],
      result: z.null(),
      help: "Pull the bundle and put its boot files on the TFTP server; another bundle may be named for this lease",
    }),
    get_flasher_manifest_yaml: unary({ args: [], result: z.string(), help: "The bundle's manifest as YAML text" }),
    get_bundle: unary({
      args: [],
      result: z.object({ reference: z.string(), digest: z.string().nullable(), signed_by: z.string().nullable() }),
      help: "Which bundle is in use: its digest, and the fingerprint of the key that signed it (not in Python's)",
    }),
    get_default_target: unary({ args: [], result: z.string().nullable() }),
    get_cacert: unary({ args: [], result: z.string().nullable(), help: "PEM text of the CA that image servers use" }),
    setup_fls_binary: unary({ args: [], result: z.null(), help: "Put the fls program on the HTTP server as `fls`" }),
    use_dtb_variant: unary({ args: [z.string()], result: z.null(), help: "Choose a device tree of the bundle" }),
    set_dtb: unary({ args: [resourceHandle], result: z.null() }),
    get_kernel_filename: unary({ args: [], result: z.string() }),
    get_initram_filename: unary({ args: [], result: z.string().nullable() }),
    get_dtb_filename: unary({ args: [], result: z.string(), help: "Empty if the variant has no file" }),
    get_kernel_address: unary({ args: [], result: z.string() }),
    get_initram_address: unary({ args: [], result: z.string().nullable() }),
    get_dtb_address: unary({ args: [], result: z.string().nullable() }),
    get_bootcmd: unary({ args: [], result: z.string(), help: "The U-Boot command that boots what was loaded" }),
  },
});
