import { AgentError } from "../../agent/driver/errors.ts";
import type { CanFilter, CanFrame } from "./bus.ts";
import type { CanFilterMessage, CanMessage } from "./interface.ts";
import { longestFdBytes } from "./protocol.ts";

/** @throws AgentError E_INVALID for what no CAN frame can be. More than 8 bytes may come without `is_fd`: virtual buses take them. */
export function toFrame(message: CanMessage): CanFrame {
  const data = Buffer.from(message.data ?? "", "base64");
  const { arbitration_id, is_extended_id, is_remote_frame, is_error_frame, is_fd } = message;
  if (data.length > longestFdBytes) {
    throw new AgentError("E_INVALID", `data: a CAN frame holds ${longestFdBytes} bytes, not ${data.length}`);
  }
  if (!is_extended_id && !is_error_frame && arbitration_id > 0x7ff) {
    throw new AgentError("E_INVALID", `arbitration_id: 0x${arbitration_id.toString(16)} has more than 11 bits`);
  }
  if (is_fd && is_remote_frame) throw new AgentError("E_INVALID", "CAN FD has no remote frames");
  return {
    id: arbitration_id,
    extended: is_extended_id,
    remote: is_remote_frame,
    error: is_error_frame,
    fd: is_fd,
    bitrateSwitch: message.bitrate_switch,
    errorStateIndicator: message.error_state_indicator,
    data: is_remote_frame ? new Uint8Array() : data,
    dlc: is_remote_frame ? (message.dlc ?? 0) : data.length,
    timestampS: message.timestamp,
    channel: message.channel,
  };
}

export function toMessage(frame: CanFrame): CanMessage {
  const { data } = frame;
  return {
    timestamp: frame.timestampS,
    arbitration_id: frame.id,
    is_extended_id: frame.extended,
    is_remote_frame: frame.remote,
    is_error_frame: frame.error,
    channel: frame.channel,
    dlc: frame.dlc,
    data: Buffer.from(data.buffer, data.byteOffset, data.length).toString("base64"),
    is_fd: frame.fd,
    is_rx: frame.sentHere !== true,
    bitrate_switch: frame.bitrateSwitch,
    error_state_indicator: frame.errorStateIndicator,
  };
}

/** None at all, as no filter, let everything through. */
export function toFilters(filters: readonly CanFilterMessage[] | null | undefined): readonly CanFilter[] | null {
  if (filters === null || filters === undefined || filters.length === 0) return null;
  return filters.map(({ can_id, can_mask, extended }) => ({
    id: can_id,
    mask: can_mask,
    extended: extended ?? undefined,
  }));
}
