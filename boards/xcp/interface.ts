import * as z from "zod";
import { defineInterface, unary } from "../../agent/driver/interface.ts";

const byte = () => z.int().min(0).max(0xff);
const word = () => z.int().min(0).max(0xffff);
const dword = () => z.int().min(0).max(0xffff_ffff);
const bytes = () => z.string().describe("bytes, as a text");
const info = z.record(z.string(), z.unknown());
const none = z.null();

export const xcp = defineInterface({
  driverType: "automotive",
  client: "jumpstarter_driver_xcp.client.XcpClient",
  methods: {
    connect: unary({
      args: [byte().optional().describe("0: normal, 1: user defined")],
      result: z.object({
        max_cto: z.int(),
        max_dto: z.int(),
        byte_order: z.enum(["INTEL", "MOTOROLA"]),
        supports_pgm: z.boolean(),
        supports_stim: z.boolean(),
        supports_daq: z.boolean(),
        supports_calpag: z.boolean(),
        protocol_layer_version: z.int(),
        transport_layer_version: z.int(),
        address_granularity: z.enum(["BYTE", "WORD", "DWORD"]),
        slave_block_mode: z.boolean(),
      }),
      help: "Connect with the slave",
    }),
    disconnect: unary({ args: [], result: none, help: "End the connection" }),
    get_id: unary({
      args: [byte().optional().describe("1: name of the ASAM description, 4: URL, …")],
      result: z.object({ id_type: z.int(), identifier: z.string() }),
      help: "What the slave says that it is",
    }),
    get_status: unary({
      args: [],
      result: z.object({ session_status: info, resource_protection: z.record(z.string(), z.boolean()) }),
      help: "State of the session, and which resources are locked",
    }),
    unlock: unary({
      args: [z.union([z.array(z.string()), z.string()]).nullish()],
      result: z.record(z.string(), z.boolean()),
      help: "Which resources are locked; locked ones need a key that this driver has not",
    }),
    upload: unary({
      args: [
        z
          .int()
          .min(0)
          .max(1 << 20),
        dword(),
        byte().optional(),
      ],
      result: z.string(),
      help: "Read memory: how many elements, address, extension",
    }),
    download: unary({ args: [dword(), bytes(), byte().optional()], result: none, help: "Write memory" }),
    set_mta: unary({ args: [dword(), byte().optional()], result: none, help: "Set the transfer address" }),
    build_checksum: unary({
      args: [dword()],
      result: z.object({ checksum_type: z.int(), checksum_value: z.number() }),
      help: "Checksum of so many elements from the transfer address on",
    }),
    get_daq_info: unary({
      args: [],
      result: z.object({ processor: info, resolution: info, channels: z.array(info) }),
      help: "What the slave can measure",
    }),
    free_daq: unary({ args: [], result: none, help: "Forget all DAQ lists" }),
    alloc_daq: unary({ args: [word()], result: none, help: "Make DAQ lists" }),
    alloc_odt: unary({ args: [word(), byte()], result: none, help: "Make ODTs of a DAQ list" }),
    alloc_odt_entry: unary({ args: [word(), byte(), byte()], result: none, help: "Make entries of an ODT" }),
    set_daq_ptr: unary({ args: [word(), byte(), byte()], result: none, help: "Choose an entry: list, ODT, entry" }),
    write_daq: unary({
      args: [byte(), byte(), byte(), dword()],
      result: none,
      help: "What the entry measures: bit offset, size, extension, address",
    }),
    set_daq_list_mode: unary({
      args: [byte(), word(), word(), byte(), byte()],
      result: none,
      help: "Mode, list, event channel, prescaler, priority",
    }),
    start_stop_daq_list: unary({
      args: [z.int().min(0).max(2), word()],
      result: none,
      help: "0: stop, 1: start, 2: select a list",
    }),
    start_stop_synch: unary({
      args: [z.int().min(0).max(3)],
      result: none,
      help: "0: stop all, 1: start those selected, 2: stop those selected",
    }),
    program_start: unary({
      args: [],
      result: z.object({
        comm_mode_pgm: z.int(),
        max_cto_pgm: z.int(),
        max_bs_pgm: z.int(),
        min_st_pgm: z.int(),
        queue_size_pgm: z.int(),
      }),
      help: "Begin programming",
    }),
    program_clear: unary({ args: [dword(), z.int().min(0).max(1).optional()], result: none, help: "Erase" }),
    program: unary({ args: [bytes(), byte().optional()], result: none, help: "Program data" }),
    program_reset: unary({ args: [], result: none, help: "End programming; the slave starts anew" }),
  },
});
