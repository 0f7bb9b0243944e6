import * as z from "zod";
import * as lax from "../../agent/driver/lax.ts";
import { addressingModes, addressProblem, resolveAddress, type Address, type AddressFields } from "./address.ts";
import type { MachineSettings } from "./machine.ts";
import { frameLengths, longestMessageBytes } from "./protocol.ts";

/** `Normal_11bits`, `Normal11`, `normal-11`: people write them in many ways. */
const shortName = (name: string) => name.toLowerCase().replaceAll(/[^a-z0-9]|bits?$/g, "");
const modesByName = new Map(addressingModes.map((mode) => [shortName(mode), mode]));
for (const width of [11, 29]) modesByName.set(`ext${width}`, `Extended_${width as 11 | 29}bits`);

const addressingMode = z.union([z.number(), z.string()]).transform((given, context) => {
  const number = Number(given);
  const mode = Number.isNaN(number) ? modesByName.get(shortName(String(given))) : addressingModes[number];
  if (mode !== undefined) return mode;
  context.addIssue("Addressing mode is not valid");
  return z.NEVER;
});

/** Ids are written as they are spoken of, so `"0x7E0"` in quotes is one, too. */
const id = () =>
  z
    .union(
      [
        lax.number(),
        z
          .string()
          .regex(/^0x[0-9a-f]+$/i)
          .transform(Number),
      ],
      { error: "must be a number" },
    )
    .nullish()
    .transform((value) => value ?? undefined);

const addressFields = z.object({
  addressing_mode: addressingMode
    .default("Normal_11bits")
    .describe("0 to 6, or a name: Normal_11bits, Mixed_29bits, …"),
  txid: id().describe("CAN id that we send with (Normal, Extended, Mixed_11bits)"),
  rxid: id().describe("CAN id that the peer sends with (Normal, Extended, Mixed_11bits)"),
  target_address: id().describe("the peer's address, 0 to 255 (Extended, NormalFixed, Mixed_29bits)"),
  source_address: id().describe("our own address, 0 to 255 (Extended, NormalFixed, Mixed_29bits)"),
  physical_id: id().describe("bits 28 to 16 of the ids to one node (default 0x18DA0000, Mixed 0x18CE0000)"),
  functional_id: id().describe("bits 28 to 16 of the ids to all nodes (default 0x18DB0000, Mixed 0x18CD0000)"),
  address_extension: id().describe("0 to 255 (Mixed)"),
  rx_only: lax.boolean().optional(),
  tx_only: lax.boolean().optional(),
});

type GivenFields = z.output<typeof addressFields>;

/** An address as clients send it and configurations have it: one for both ways, or one for each. */
export const isoTpAddress = addressFields
  .extend({
    tx_addr: addressFields.nullish().describe("the address that we send with, if another one is received with"),
    rx_addr: addressFields.nullish(),
  })
  .transform((given, context): Address => {
    const check = (fields: GivenFields, part: { rx_only?: boolean; tx_only?: boolean }): AddressFields => {
      const complete = { ...fields, rx_only: fields.rx_only ?? false, tx_only: fields.tx_only ?? false, ...part };
      const wrong = addressProblem(complete);
      if (wrong !== undefined) context.addIssue(wrong);
      return complete;
    };
    const { tx_addr, rx_addr } = given;
    if (tx_addr == null && rx_addr == null) {
      const both = check(given, {});
      if (both.rx_only || both.tx_only) context.addIssue(partial);
      return resolveAddress(both);
    }
    if (tx_addr == null || rx_addr == null) {
      context.addIssue(partial);
      return z.NEVER;
    }
    // Which part it is says its key; who says something else means something else.
    if (tx_addr.tx_only === false) context.addIssue("tx_addr must be configured with tx_only=True");
    if (rx_addr.rx_only === false) context.addIssue("rx_addr must be configured with rx_only=True");
    return resolveAddress(check(tx_addr, { tx_only: true }), check(rx_addr, { rx_only: true }));
  });

const partial =
  "Cannot use a partially defined address. Either use a fully defined isotp.Address or an isotp.AsymmetricAddress";

const isFrameLength = (bytes: number) => frameLengths.some((length) => length === bytes);
const byte = () => lax.int(0, 255);
const targetType = z.union(
  [
    lax.int(0, 1),
    z.stringbool({ truthy: ["functional"], falsy: ["physical"] }).transform((isFunctional) => (isFunctional ? 1 : 0)),
  ],
  { error: "must be 0 (physical) or 1 (functional)" },
);

export const isoTpParams = z
  .strictObject({
    stmin: byte()
      .prefault(0)
      .describe("pause between frames that we ask a sender for: 0 to 127 ms, 0xF1 to 0xF9 0.1 to 0.9 ms"),
    blocksize: byte().prefault(8).describe("consecutive frames that we take before our next flow control; 0: all"),
    tx_data_length: lax
      .number()
      .prefault(8)
      .refine(isFrameLength, "must be one of these: 8, 12, 16, 20, 24, 32, 48, 64")
      .describe("longest CAN frame that we send, in bytes; above 8 only with CAN FD"),
    tx_data_min_length: lax
      .number()
      .nullish()
      .refine(
        (bytes) => bytes == null || isFrameLength(bytes) || (Number.isInteger(bytes) && bytes >= 1 && bytes < 8),
        "must be one of these: 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 20, 24, 32, 48, 64",
      )
      .describe("shortest CAN frame that we send, in bytes; filled up with tx_padding"),
    override_receiver_stmin: lax.number().nullish().refine((seconds) => seconds == null || seconds >= 0, "must not be negative")
      .describe("pause in seconds between our frames, whatever the receiver asks for"), // prettier-ignore
    rx_flowcontrol_timeout: lax
      .int(0, 3_600_000)
      .prefault(1000)
      .describe("longest wait for a flow control, in ms (N_Bs)"),
    rx_consecutive_frame_timeout: lax.int(0, 3_600_000).prefault(1000)
      .describe("longest wait for the next consecutive frame, in ms (N_Cr)"), // prettier-ignore
    tx_padding: byte().nullish().describe("fills frames to 8 bytes; null: as short as they can be"),
    wftmax: lax.int(0, 1_000_000).prefault(0).describe("how often in a row a receiver may ask us to wait"),
    max_frame_size: lax
      .int(0, longestMessageBytes)
      .prefault(4095)
      .describe("longest message that we receive, in bytes"),
    can_fd: lax.boolean().prefault(false).describe("send CAN FD frames"),
    bitrate_switch: lax.boolean().prefault(false).describe("send CAN FD frames with the higher bit rate"),
    default_target_address_type: targetType.prefault(0).describe("0: physical (one node), 1: functional (all nodes)"),
    rate_limit_enable: lax.boolean().prefault(false).describe("send no more than rate_limit_max_bitrate"),
    rate_limit_max_bitrate: lax.int(1, Number.MAX_SAFE_INTEGER).prefault(10_000_000).describe("data bits per second"),
    rate_limit_window_size: lax.number().prefault(0.2).refine((seconds) => seconds > 0, "must be greater than 0")
      .describe("time over which the rate is measured, in seconds"), // prettier-ignore
    listen_mode: lax.boolean().prefault(false).describe("receive without answering, and send nothing"),
    blocking_send: lax
      .boolean()
      .prefault(false)
      .describe("send returns when the message has been taken by its receiver"),
  })
  .superRefine((params, context) => {
    const { tx_data_length: length, tx_data_min_length: least } = params;
    if (least != null && least > length) context.addIssue("tx_data_min_length cannot be greater than tx_data_length");
    if (params.rate_limit_max_bitrate * params.rate_limit_window_size < length * 8) {
      context.addIssue(
        `Rate limiter is so restrictive that a SingleFrame cannot be sent. Please, allow a higher bitrate or increase the window size. (tx_data_length = ${length})`,
      );
    }
  });

export type IsoTpParams = z.output<typeof isoTpParams>;

export function machineSettings(params: IsoTpParams): MachineSettings {
  const { override_receiver_stmin: overrideSeconds, rate_limit_window_size: windowSeconds } = params;
  return {
    layout: {
      frameBytes: params.tx_data_length,
      leastBytes: params.tx_data_min_length ?? undefined,
      padding: params.tx_padding ?? undefined,
    },
    flowTimeoutMs: params.rx_flowcontrol_timeout,
    waitLimit: params.wftmax,
    overrideSeparationMs: overrideSeconds == null ? undefined : overrideSeconds * 1000,
    stmin: params.stmin,
    blockSize: params.blocksize,
    consecutiveTimeoutMs: params.rx_consecutive_frame_timeout,
    longestMessageBytes: params.max_frame_size,
    listenOnly: params.listen_mode,
    fd: params.can_fd,
    bitrateSwitch: params.bitrate_switch,
    rateLimit: params.rate_limit_enable
      ? { bitsPerSecond: params.rate_limit_max_bitrate, windowMs: windowSeconds * 1000 }
      : undefined,
  };
}
