import { can, type CanMessage } from "../../../../boards/can/interface.ts";
import { AgentError } from "../../../driver/errors.ts";
import { command, type Commands, type Run } from "../command.ts";

const calls = ({ node, signal }: Run) => node.as(can, { signal });

/** The Python client has no words of its own; these are those of candump and cansend. */
export const commands: Commands = {
  status: command({
    help: "State, bit rate and error counters",
    run: async (run) => {
      for (const [name, value] of Object.entries(await calls(run).status())) {
        if (value !== null) run.print(`${name}: ${value}`);
      }
    },
  }),
  dump: command({
    help: "Print frames as they come, as candump -L does",
    options: { count: { kind: "integer", short: "n", default: 0, help: "Number of frames (0 = infinite)" } },
    run: async (run, { count }) => {
      let printed = 0;
      for await (const batch of calls(run).frames()) {
        for (const message of batch) {
          run.print(describeMessage(message));
          printed += 1;
          if (printed === count) return;
        }
      }
    },
  }),
  send: command({
    help: "Send a frame: ID#DATA, ID##FLAGS DATA without the space (CAN FD), ID#R with a length (remote), as for cansend",
    args: { frame: { help: "three digits of hexadecimal id, or eight for 29 bits: 123#DEADBEEF" } },
    run: async (run, { frame }) => void (await calls(run).send(parseMessage(frame))),
  }),
  restart: command({
    help: "Bring a controller that is bus-off back",
    run: async (run) => void (await calls(run).restart()),
  }),
};

/** `(1436509052.249713) can0 044#2A366C2BBA` */
function describeMessage(message: CanMessage): string {
  const id = message.is_error_frame ? message.arbitration_id + 0x2000_0000 : message.arbitration_id;
  const digits = message.is_extended_id || message.is_error_frame ? 8 : 3;
  const data = Buffer.from(message.data ?? "", "base64")
    .toString("hex")
    .toUpperCase();
  const flags = (message.bitrate_switch ? 1 : 0) + (message.error_state_indicator ? 2 : 0);
  const rest = message.is_remote_frame ? `#R${message.dlc ?? 0}` : message.is_fd ? `##${flags}${data}` : `#${data}`;
  const name = String(message.channel ?? "can").replaceAll(/\s/g, "_");
  return `(${message.timestamp.toFixed(6)}) ${name} ${id.toString(16).toUpperCase().padStart(digits, "0")}${rest}`;
}

const framePattern = /^([0-9a-f]{3}|[0-9a-f]{8})#(?:(r)(\d{0,2})|(#([0-9a-f]))?((?:[0-9a-f]{2}\.?)*))$/i;

/** @throws AgentError E_USAGE */
function parseMessage(text: string): CanMessage {
  const match = framePattern.exec(text);
  if (match === null)
    throw new AgentError("E_USAGE", `FRAME: '${text}' is not like 123#DEADBEEF, 12345678##1DEADBEEF or 123#R8`);
  const [, id = "", remote, length = "", fd, flags = "0", hex = ""] = match;
  const data = Buffer.from(hex.replaceAll(".", ""), "hex");
  const word = Number.parseInt(id, 16);
  const isError = id.length === 8 && (word & 0x2000_0000) !== 0;
  return {
    timestamp: 0,
    arbitration_id: word & 0x1fff_ffff,
    is_extended_id: id.length === 8 && !isError,
    is_remote_frame: remote !== undefined,
    is_error_frame: isError,
    channel: null,
    dlc: remote === undefined ? data.length : Number(length),
    data: data.toString("base64"),
    is_fd: fd !== undefined,
    is_rx: false,
    bitrate_switch: (Number.parseInt(flags, 16) & 1) !== 0,
    error_state_indicator: (Number.parseInt(flags, 16) & 2) !== 0,
  };
}
