import * as z from "zod";
import { hexBytes } from "../../agent/driver/hex.ts";
import { defineInterface, unary } from "../../agent/driver/interface.ts";

const byte = () => z.int().min(0).max(0xff);
const identifier = () => z.int().min(0).max(0xffff);
const level = () => z.int().min(1).max(0x7e);
/** Empty as good as left out. */
const optionalHex = () => hexBytes().nullish();
/** A negative response is an answer, too. */
const negative = { success: z.boolean(), nrc: z.int().nullable(), nrc_name: z.string().nullable() };
const hexOrNull = z.string().nullable();

const response = z.object({ ...negative, service: z.string(), data: hexOrNull });
const routine = {
  args: [identifier().describe("routine"), optionalHex().describe("its options, in hexadecimal")] as const,
  result: z.object({
    ...negative,
    routine_id: z.int(),
    control_type: z.enum(["startRoutine", "stopRoutine", "requestRoutineResults"]),
    status_record: hexOrNull,
  }),
};

export const uds = defineInterface({
  driverType: "other",
  client: "jumpstarter_driver_uds.client.UdsClient",
  methods: {
    change_session: unary({
      args: [z.enum(["default", "programming", "extended", "safety"])],
      result: response,
      help: "Change the diagnostic session",
    }),
    ecu_reset: unary({ args: [z.enum(["hard", "key_off_on", "soft"])], result: response, help: "Reset the ECU" }),
    tester_present: unary({ args: [], result: z.null(), help: "Keep the session alive" }),
    read_data_by_identifier: unary({
      args: [z.array(identifier()).min(1).max(1000)],
      result: z.array(z.object({ did: z.int(), value: z.string() })),
      help: "Read data by their identifiers; those that the ECU refuses are left out",
    }),
    write_data_by_identifier: unary({ args: [identifier(), hexBytes()], result: response, help: "Write data" }),
    request_seed: unary({
      args: [level()],
      result: z.object({ ...negative, seed: z.string() }),
      help: "Ask for the seed of a security level",
    }),
    send_key: unary({ args: [level(), hexBytes()], result: response, help: "Answer a seed with its key" }),
    clear_dtc: unary({
      args: [z.int().min(0).max(0xff_ffff).optional()],
      result: response,
      help: "Clear diagnostic trouble codes, of one group or all",
    }),
    read_dtc_by_status_mask: unary({
      args: [byte().optional()],
      result: z.array(z.object({ dtc_id: z.int(), status: z.int(), severity: z.int().nullable() })),
      help: "Diagnostic trouble codes with any of these status bits",
    }),
    start_routine: unary({ ...routine, help: "Start a routine" }),
    stop_routine: unary({ ...routine, help: "Stop a routine" }),
    get_routine_result: unary({ ...routine, help: "What a routine has to say" }),
    authentication: unary({
      args: [
        z.int().min(0).max(8).describe("task"),
        byte().nullish().describe("communication configuration"),
        optionalHex().describe("certificate"),
        optionalHex().describe("challenge"),
        optionalHex().describe("algorithm indicator"),
        optionalHex().describe("proof of ownership"),
      ],
      result: z.object({
        ...negative,
        authentication_task: z.int(),
        return_value: z.int(),
        challenge_server: hexOrNull,
        certificate_server: hexOrNull,
        proof_of_ownership_server: hexOrNull,
        session_key_info: hexOrNull,
        algorithm_indicator: hexOrNull,
        needed_additional_parameter: hexOrNull,
      }),
      help: "Authenticate",
    }),
    request_file_transfer: unary({
      args: [
        z.int().min(1).max(6).describe("1: add, 2: delete, 3: replace, 4: read, 5: read directory, 6: resume"),
        z
          .string()
          .min(1)
          .max(0xffff)
          .regex(/^[\0-\x7f]*$/, "must be ASCII"),
        z.int().min(0).nullish().describe("size in bytes"),
      ],
      result: z.object({
        ...negative,
        moop: z.int(),
        max_length: z.number().nullable(),
        filesize_uncompressed: z.number().nullable(),
        filesize_compressed: z.number().nullable(),
        dirinfo_length: z.number().nullable(),
      }),
      help: "Begin the transfer of a file",
    }),
  },
});
