import type { Socket } from "node:net";
import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import { AgentError, DeviceOffline, toAgentError } from "../../agent/driver/errors.ts";
import { connectAbstract } from "../../agent/sys/abstract-socket.ts";
import { dial } from "../../agent/stream/dial.ts";
import { describeBusAddress, parseBusAddresses, type BusAddress } from "./dbus-address.ts";
import { asUser } from "./dbus-identity.ts";
import { dbusNetwork } from "./interface.ts";

/** Tells clients which of their own variables they replace. */
const kindLabel = "jumpstarter.dev/dbusnetwork/kind";

/** A bus is on this host or near: of several, the next one is tried soon. */
const perAddressTimeoutMs = 5_000;

type Kind = "system" | "session";

/** The address of a bus as the environment has it, else where systemd puts it. */
function addressOf(kind: Kind): string {
  if (kind === "system") return process.env["DBUS_SYSTEM_BUS_ADDRESS"] || "unix:path=/run/dbus/system_bus_socket";
  return process.env["DBUS_SESSION_BUS_ADDRESS"] || `unix:path=/run/user/${process.getuid?.() ?? 0}/bus`;
}

export default defineDriver({
  types: ["jumpstarter_driver_network.driver.DbusNetwork"],
  summary: "Connects to a D-Bus bus of the exporter's host.",
  implements: dbusNetwork,
  config: z.strictObject({
    kind: z.enum(["system", "session"], { error: "invalid bus type, must be system or session" }).describe("which bus"),
  }),
  labels: ({ kind }) => ({ [kindLabel]: kind }),
  open({ config: { kind } }) {
    const addresses = parse(kind);
    return {
      methods: {
        async connect({ signal }) {
          const failures: string[] = [];
          let last: unknown;
          for (const address of addresses) {
            try {
              const socket = await dialBus(address, signal);
              // Over TCP no bus sees who we are.
              return address.kind === "tcp" ? socket : asUser(socket, process.geteuid?.() ?? 0);
            } catch (error) {
              signal.throwIfAborted();
              last = error;
              failures.push(`${describeBusAddress(address)}: ${toAgentError(error).message}`);
            }
          }
          const { code } = toAgentError(last);
          throw new AgentError(code, failures.join("; "), { cause: last });
        },
      },
    };
  },
  inspect({ kind }) {
    try {
      return [{ ok: true, text: `${kind} bus at ${parse(kind).map(describeBusAddress).join(" or ")}` }];
    } catch (error) {
      return [{ ok: false, text: (error as Error).message }];
    }
  },
});

/** @throws DeviceOffline as the environment is none of the configuration's faults */
function parse(kind: Kind): BusAddress[] {
  try {
    return parseBusAddresses(addressOf(kind));
  } catch (error) {
    throw new DeviceOffline((error as Error).message);
  }
}

function dialBus(address: BusAddress, signal: AbortSignal): Promise<Socket> {
  const where = describeBusAddress(address);
  if (address.kind === "unix") return dial({ path: address.path }, where, signal, perAddressTimeoutMs);
  if (address.kind === "abstract") return connectAbstract(address.name);
  const { host, port, family } = address;
  return dial({ host, port, family, noDelay: true, keepAlive: true }, where, signal, perAddressTimeoutMs);
}
