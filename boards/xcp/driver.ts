import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import { AgentError, toAgentError } from "../../agent/driver/errors.ts";
import * as lax from "../../agent/driver/lax.ts";
import { busAddress } from "../can/open.ts";
import {
  parseDaqEvent,
  parseDaqProcessor,
  parseDaqResolution,
  unknownProcessor,
  unknownResolution,
} from "./daq-info.ts";
import { xcp } from "./interface.ts";
import { XcpMaster, type Turn } from "./master.ts";
import { decodeText, readMemory, readText, setAddress, writeOn } from "./memory.ts";
import { errorCodes, parseStatus, resources, XcpRefusal, type CommandPacket, type CommandName } from "./protocol.ts";
import { overCan, overTcp, overUdp } from "./transport.ts";

const upper = (value: unknown) => (typeof value === "string" ? value.toUpperCase() : value);
const pythonOnly = "needs pyxcp: use the Python driver";
/** Erasing and writing flash may take so long, even for slaves that do not ask for more time. T5 and others (table 236). */
const programTimeoutMs = 10_000;
/** After PROGRAM_RESET a slave may be gone before it has answered. */
const resetTimeoutMs = 500;

const canId = () => lax.int(0, 0x9fff_ffff).nullish();

const config = z
  .strictObject({
    transport: z.preprocess(upper, z.enum(["ETH", "CAN", "USB", "SXI"])).prefault("ETH"),
    host: z.string().min(1).nullable().prefault("localhost").describe("the slave (ETH)"),
    port: lax.port().prefault(5555),
    protocol: z.preprocess(upper, z.enum(["TCP", "UDP"])).prefault("TCP"),
    can_interface: z.string().nullish().describe("socketcan, or virtual (CAN)"),
    channel: z.union([z.string(), z.int()]).nullish().describe("name of the network interface, like can0 (CAN)"),
    bitrate: lax.int(1, 10_000_000).nullish().describe("bits a second; left out: as the interface is set up"),
    can_id_master: canId().describe("id that we send with; 29 bits with bit 31 set, as in A2L files (CAN)"),
    can_id_slave: canId().describe("id that the slave answers with (CAN)"),
    config_file: z.null({ error: `a pyxcp configuration file ${pythonOnly}` }).optional(),
    bytes_as: z
      .enum(["utf-8", "latin-1"])
      .default("utf-8")
      .describe("how bytes travel as text: utf-8 as the Python driver has it, latin-1 for any byte"),
  })
  .superRefine((given, context) => {
    const { transport } = given;
    if (transport === "USB" || transport === "SXI") {
      context.addIssue({ code: "custom", path: ["transport"], message: `${transport} ${pythonOnly}` });
    }
    if (transport === "ETH" && given.host === null) {
      context.addIssue({ code: "custom", path: ["host"], message: "must be given for ETH" });
    }
    for (const key of ["channel", "can_id_master", "can_id_slave"] as const) {
      if (transport === "CAN" && given[key] == null) {
        context.addIssue({ code: "custom", path: [key], message: "must be given for CAN" });
      }
    }
  });

const busSettings = (given: z.output<typeof config>) => ({
  interface: given.can_interface ?? "socketcan",
  channel: given.channel ?? null,
  bitrate: given.bitrate ?? undefined,
});

export default defineDriver({
  types: ["jumpstarter_driver_xcp.driver.Xcp"],
  summary: "Measurement and calibration of an ECU (XCP), over TCP, UDP or CAN.",
  implements: xcp,
  config,
  needs: (given) => {
    const onCan = given.transport === "CAN" && busAddress(busSettings(given), process.env).interface !== "virtual";
    return onCan ? { rights: ["can"] } : {};
  },
  async inspect(given) {
    if (given.transport !== "CAN") return [];
    const { interface: kind, channel } = busAddress(busSettings(given), process.env);
    if (kind === "virtual") return [{ ok: true, text: `virtual CAN bus ${channel}` }];
    const { inspectInterface } = await import("../can/socketcan.ts");
    return [await inspectInterface(String(channel))];
  },
  open(context) {
    const { config: given } = context;
    const ids = { master: given.can_id_master ?? 0, slave: given.can_id_slave ?? 0 };
    const { host, port } = { host: given.host ?? "localhost", port: given.port };
    // Its bus is opened with the connection, as an interface may be up later than the agent.
    if (given.transport === "CAN") busAddress(busSettings(given), process.env);
    const openLink =
      given.transport === "CAN"
        ? overCan(busSettings(given), ids, context)
        : given.protocol === "TCP"
          ? overTcp(host, port)
          : overUdp(host, port);
    const master = new XcpMaster(openLink);
    let programBytes: number | undefined;

    /** A command whose answer says no more than that it is done. */
    const command = (
      signal: AbortSignal,
      name: CommandName,
      fill?: (packet: CommandPacket) => CommandPacket,
      timeoutMs?: number,
    ): Promise<void> =>
      master.run(signal, async (turn) => {
        await turn.ask(name, fill, timeoutMs === undefined ? {} : { timeoutMs });
      });
    const toBytes = (text: string): Uint8Array => {
      if (given.bytes_as === "utf-8") return Buffer.from(text, "utf8");
      if (/^[\0-\xff]*$/.test(text)) return Buffer.from(text, "latin1");
      throw new AgentError("E_INVALID", "a character is no byte");
    };
    const toText = (bytes: Uint8Array): string => {
      if (given.bytes_as === "latin-1") return Buffer.from(bytes).toString("latin1");
      try {
        return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
      } catch (cause) {
        const text =
          "the memory holds bytes that are not UTF-8, which this interface cannot carry; set bytes_as: latin-1";
        throw new AgentError("E_INVALID", text, { cause });
      }
    };
    const disconnect = async (signal: AbortSignal) => {
      try {
        if (master.connected) await command(signal, "DISCONNECT");
      } catch (error) {
        // The connection ends in any case.
        signal.throwIfAborted();
        context.log.warn(`XCP: ${toAgentError(error).message}`);
      } finally {
        master.close();
        programBytes = undefined;
      }
    };

    return {
      methods: {
        connect: ({ signal }, mode = 0) => {
          programBytes = undefined;
          return master.connect(mode, signal);
        },
        disconnect: ({ signal }) => disconnect(signal),
        get_id: ({ signal }, type = 1) =>
          master.run(signal, async (turn) => {
            const response = await turn.ask("GET_ID", (packet) => packet.bytes(type));
            const length = response.u32(3);
            const isHere = (response.u8(0) & 1) !== 0;
            const identifier = isHere ? decodeText(response.slice(7, length)) : await readText(turn, length);
            return { id_type: type, identifier };
          }),
        get_status: ({ signal }) => master.run(signal, async (turn) => parseStatus(await turn.ask("GET_STATUS"))),
        unlock: ({ signal }, wanted) =>
          master.run(signal, async (turn) => {
            const locked = parseStatus(await turn.ask("GET_STATUS")).resource_protection;
            const names = wantedResources(wanted, turn);
            const needed = names.filter((name) => locked[name]);
            if (needed.length === 0) return locked;
            throw new AgentError("E_UNSUPPORTED", `locked: ${needed.join(", ")}; a seed and key library ${pythonOnly}`);
          }),
        upload: ({ signal }, elements, address, extension = 0) =>
          master.run(signal, async (turn) => toText(await readMemory(turn, elements, address, extension))),
        download: ({ signal }, address, text, extension = 0) =>
          master.run(signal, async (turn) => {
            await setAddress(turn, address, extension);
            await writeOn(turn, "DOWNLOAD", toBytes(text), { mostBytes: turn.slave.max_cto });
          }),
        set_mta: ({ signal }, address, extension = 0) =>
          master.run(signal, (turn) => setAddress(turn, address, extension)),
        build_checksum: ({ signal }, elements) =>
          master.run(signal, async (turn) => {
            const fill = (packet: CommandPacket) => packet.bytes(0, 0, 0).u32(elements);
            const response = await turn.ask("BUILD_CHECKSUM", fill, { timeoutMs: programTimeoutMs });
            return { checksum_type: response.u8(0), checksum_value: response.u32(3) };
          }),
        get_daq_info: ({ signal }) => master.run(signal, daqInfo),
        free_daq: ({ signal }) => command(signal, "FREE_DAQ"),
        alloc_daq: ({ signal }, lists) => command(signal, "ALLOC_DAQ", (packet) => packet.bytes(0).u16(lists)),
        alloc_odt: ({ signal }, list, odts) =>
          command(signal, "ALLOC_ODT", (packet) => packet.bytes(0).u16(list).bytes(odts)),
        alloc_odt_entry: ({ signal }, list, odt, entries) =>
          command(signal, "ALLOC_ODT_ENTRY", (packet) => packet.bytes(0).u16(list).bytes(odt, entries)),
        set_daq_ptr: ({ signal }, list, odt, entry) =>
          command(signal, "SET_DAQ_PTR", (packet) => packet.bytes(0).u16(list).bytes(odt, entry)),
        write_daq: ({ signal }, bitOffset, size, extension, address) =>
          command(signal, "WRITE_DAQ", (packet) => packet.bytes(bitOffset, size, extension).u32(address)),
        set_daq_list_mode: ({ signal }, mode, list, event, prescaler, priority) =>
          command(signal, "SET_DAQ_LIST_MODE", (packet) =>
            packet.bytes(mode).u16(list).u16(event).bytes(prescaler, priority),
          ),
        start_stop_daq_list: ({ signal }, mode, list) =>
          command(signal, "START_STOP_DAQ_LIST", (packet) => packet.bytes(mode).u16(list)),
        start_stop_synch: ({ signal }, mode) => command(signal, "START_STOP_SYNCH", (packet) => packet.bytes(mode)),
        program_start: ({ signal }) =>
          master.run(signal, async (turn) => {
            const response = await turn.ask("PROGRAM_START", undefined, { timeoutMs: programTimeoutMs });
            programBytes = response.u8(2);
            return {
              comm_mode_pgm: response.u8(1),
              max_cto_pgm: programBytes,
              max_bs_pgm: response.u8(3),
              min_st_pgm: response.u8(4),
              queue_size_pgm: response.u8(5),
            };
          }),
        program_clear: ({ signal }, range, mode = 0) =>
          command(signal, "PROGRAM_CLEAR", (packet) => packet.bytes(mode, 0, 0).u32(range), programTimeoutMs),
        program: ({ signal }, text, blockLength = 0) => {
          const data = toBytes(text);
          if (blockLength !== 0 && blockLength !== data.length) {
            throw new AgentError("E_UNSUPPORTED", "a block of PROGRAM cannot be spread over several calls");
          }
          return master.run(signal, (turn) => {
            const mostBytes = Math.min(programBytes ?? turn.slave.max_cto, turn.slave.max_cto);
            return writeOn(turn, "PROGRAM", data, { mostBytes, timeoutMs: programTimeoutMs });
          });
        },
        async program_reset({ signal }) {
          try {
            await command(signal, "PROGRAM_RESET", undefined, resetTimeoutMs);
          } catch (error) {
            // The answer is optional.
            if (!(error instanceof AgentError) || (error.code !== "E_TIMEOUT" && error.code !== "E_CONNECTION"))
              throw error;
          }
          master.close();
        },
      },
      release: () => disconnect(AbortSignal.timeout(1_000)).catch(() => {}),
      close: () => disconnect(AbortSignal.timeout(1_000)).catch(() => {}),
    };
  },
});

/** Those of a list, of a text with commas, or all that the slave has. @throws AgentError E_INVALID for an unknown one */
function wantedResources(wanted: readonly string[] | string | null | undefined, { slave }: Turn) {
  const all = {
    calpag: slave.supports_calpag,
    daq: slave.supports_daq,
    stim: slave.supports_stim,
    pgm: slave.supports_pgm,
  };
  if (wanted == null)
    return Object.entries(all).flatMap(([name, has]) => (has ? [name as keyof typeof resources] : []));
  const names = (typeof wanted === "string" ? [wanted] : wanted).flatMap((each) => each.toLowerCase().split(/[ ,]+/));
  return names
    .filter((name) => name !== "")
    .map((name) => {
      if (Object.hasOwn(resources, name)) return name as keyof typeof resources;
      throw new AgentError("E_INVALID", `Invalid resource name '${name}'.`);
    });
}

async function daqInfo(turn: Turn) {
  const processor = (await optional(() => turn.ask("GET_DAQ_PROCESSOR_INFO"), parseDaqProcessor)) ?? unknownProcessor;
  const resolution =
    (await optional(() => turn.ask("GET_DAQ_RESOLUTION_INFO"), parseDaqResolution)) ?? unknownResolution;
  const channels: Record<string, unknown>[] = [];
  for (let channel = 0; channel < processor.eventChannels; channel += 1) {
    const ask = () => turn.ask("GET_DAQ_EVENT_INFO", (packet) => packet.bytes(0).u16(channel));
    const event = await optional(ask, parseDaqEvent);
    if (event !== undefined) channels.push(event.info(await readText(turn, event.nameBytes)));
  }
  return { processor: processor.info, resolution, channels };
}

/** A command that slaves need not know. */
async function optional<R, T>(ask: () => Promise<R>, parse: (response: R) => T): Promise<T | undefined> {
  try {
    return parse(await ask());
  } catch (error) {
    if (error instanceof XcpRefusal && error.errorCode === errorCodes.unknownCommand) return undefined;
    throw error;
  }
}
