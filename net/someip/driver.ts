import { isIPv4 } from "node:net";
import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import { AgentError } from "../../agent/driver/errors.ts";
import { toHex } from "../../agent/driver/hex.ts";
import * as lax from "../../agent/driver/lax.ts";
import { SomeIpClient, type ClientSettings } from "./client.ts";
import { someIp } from "./interface.ts";
import type { SomeIpMessage } from "./protocol.ts";

const defaults = { callSeconds: 5, messageSeconds: 2, findSeconds: 5, eventSeconds: 5 };

const ipv4 = () => z.string().refine(isIPv4, "must be an IPv4 address");

const config = z
  .strictObject({
    host: ipv4()
      .refine((host) => host !== "0.0.0.0", "must be one address of this host: services are told where to answer")
      .describe("our own address, on the network of the ECUs"),
    port: lax.port().prefault(30_490).describe("our own port, in UDP mode"),
    transport_mode: z
      .string()
      .transform((mode, context) => {
        const name = mode.toUpperCase();
        if (name === "UDP" || name === "TCP") return name.toLowerCase() as "udp" | "tcp";
        context.addIssue(`Invalid transport_mode: '${mode}'. Must be 'TCP' or 'UDP'.`);
        return z.NEVER;
      })
      .prefault("UDP"),
    multicast_group: ipv4()
      .refine((group) => /^2(2[4-9]|3\d)\./.test(group), "must be a multicast address")
      .prefault("239.127.0.1")
      .describe("of service discovery"),
    multicast_port: lax.port().prefault(30_490).describe("of service discovery"),
    remote_host: ipv4().nullish().describe("the ECU, if it is to be spoken with without service discovery"),
    remote_port: lax.port().nullish().describe("its port; as a rule the same as ours"),
  })
  .refine((given) => given.remote_port == null || given.remote_host != null, {
    message: "remote_port requires remote_host to be set",
  });

function settingsOf(given: z.output<typeof config>): ClientSettings {
  const { host, port, transport_mode: protocol, remote_host: address } = given;
  return {
    host,
    port,
    protocol,
    group: given.multicast_group,
    groupPort: given.multicast_port,
    remote: address == null ? undefined : { address, port: given.remote_port ?? port, protocol },
  };
}

const toResult = (message: SomeIpMessage) => ({
  service_id: message.serviceId,
  method_id: message.methodId,
  client_id: message.clientId,
  session_id: message.sessionId,
  protocol_version: message.protocolVersion,
  interface_version: message.interfaceVersion,
  message_type: message.messageType,
  return_code: message.returnCode,
  payload: toHex(message.payload),
});

/** As Python writes a float. */
const pythonSeconds = (seconds: number) => (Number.isInteger(seconds) ? seconds.toFixed(1) : String(seconds));

export default defineDriver({
  types: ["jumpstarter_driver_someip.driver.SomeIp"],
  summary: "SOME/IP: calls, messages, service discovery and events.",
  implements: someIp,
  config,
  needs: ({ host, port, transport_mode: protocol, multicast_group: group, multicast_port: groupPort }) => ({
    ports: [
      ...(protocol === "udp" ? [{ protocol, port, hosts: [host] }] : []),
      { protocol: "udp" as const, port: groupPort, hosts: [group] },
    ],
  }),
  open({ config: given, log }) {
    const settings = settingsOf(given);
    let started: Promise<SomeIpClient> | undefined;
    let isShut = false;

    const start = (): Promise<SomeIpClient> => {
      if (started !== undefined) return started;
      const starting = SomeIpClient.start(settings, log);
      started = starting;
      // Who fails may be tried again.
      starting.catch(() => {
        if (started === starting) started = undefined;
      });
      return starting;
    };
    const use = async (): Promise<SomeIpClient> => {
      if (isShut) throw new AgentError("E_CONNECTION", "the SOME/IP client is closed; reconnect first");
      return start();
    };
    const stop = async () => {
      const last = started;
      started = undefined;
      const client = await last?.catch(() => undefined);
      await client?.close(new AgentError("E_CONNECTION", "the SOME/IP client was closed"));
    };

    return {
      methods: {
        async start() {
          isShut = false;
          await start();
        },
        async rpc_call({ signal }, service, method, { data }, seconds = defaults.callSeconds) {
          return toResult(await (await use()).call(service, method, data, seconds * 1000, signal));
        },
        async send_message({ signal }, service, method, { data }) {
          await (await use()).send(service, method, data, signal);
        },
        async receive_message({ signal }, seconds = defaults.messageSeconds) {
          const message = await (await use()).receiveMessage(seconds * 1000, signal);
          if (message !== undefined) return toResult(message);
          throw new AgentError("E_TIMEOUT", `No message received within ${pythonSeconds(seconds)}s`);
        },
        async find_service({ signal }, service, instance = 0xffff, seconds = defaults.findSeconds) {
          const offers = await (await use()).find(service, instance, seconds * 1000, signal);
          return offers.map((offer) => ({
            service_id: offer.serviceId,
            instance_id: offer.instanceId,
            major_version: offer.majorVersion,
            minor_version: offer.minorVersion,
          }));
        },
        subscribe_eventgroup: async ({ signal }, eventgroup) => (await use()).subscribe(eventgroup, signal),
        unsubscribe_eventgroup: async ({ signal }, eventgroup) => (await use()).unsubscribe(eventgroup, signal),
        async receive_event({ signal }, seconds = defaults.eventSeconds) {
          const event = await (await use()).receiveEvent(seconds * 1000, signal);
          if (event === undefined) {
            throw new AgentError("E_TIMEOUT", `No event received within ${pythonSeconds(seconds)}s`);
          }
          return { service_id: event.serviceId, event_id: event.methodId, payload: toHex(event.payload) };
        },
        async close_connection() {
          isShut = true;
          await stop();
        },
        async reconnect() {
          isShut = false;
          await stop();
          await start();
        },
      },
      async release() {
        isShut = false;
        await stop();
      },
      close: stop,
    };
  },
});
