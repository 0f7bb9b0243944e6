import { setTimeout as sleep } from "node:timers/promises";
import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import { AgentError } from "../../agent/driver/errors.ts";
import { toHex } from "../../agent/driver/hex.ts";
import * as lax from "../../agent/driver/lax.ts";
import { doipConfig, doipSettings } from "./config.ts";
import { doip } from "./interface.ts";
import { DoipLink } from "./link.ts";
import { parseAliveCheck, parseEntityStatus, parseIdentification, parsePowerMode, payloadTypes } from "./protocol.ts";
import { askByDatagram } from "./transport.ts";

const defaultSeconds = 2;

export default defineDriver({
  types: ["jumpstarter_driver_doip.driver.DoIP"],
  summary: "Diagnostics over IP (ISO 13400): discovery, status and raw diagnostic messages of an ECU.",
  implements: doip,
  config: z.strictObject({
    ...doipConfig,
    activation_type: lax.int(0, 255).nullable().prefault(0).describe("routing activation after connecting; null: none"),
  }),
  open({ config, log }) {
    const settings = doipSettings(config, config.activation_type);
    const link = new DoipLink(settings, log, config.auto_reconnect_tcp);
    return {
      methods: {
        entity_status: ({ signal }) => {
          const { entityStatusRequest: type, entityStatusResponse: answerType } = payloadTypes;
          return askByDatagram(settings, { type, answerType, what: "entity status" }, parseEntityStatus, signal);
        },
        async alive_check({ signal }) {
          const { aliveCheckRequest, aliveCheckResponse } = payloadTypes;
          const connection = await link.use(signal);
          return connection.request(aliveCheckRequest, aliveCheckResponse, "alive check", parseAliveCheck, signal);
        },
        diagnostic_power_mode: ({ signal }) => {
          const { powerModeRequest: type, powerModeResponse: answerType } = payloadTypes;
          return askByDatagram(settings, { type, answerType, what: "diagnostic power mode" }, parsePowerMode, signal);
        },
        request_vehicle_identification: ({ signal }, vin, eid) => {
          const ask = { answerType: payloadTypes.announcement, what: "vehicle identification" };
          const by =
            eid != null && eid.length > 0
              ? { type: payloadTypes.identificationRequestByEid, payload: eid }
              : vin == null
                ? { type: payloadTypes.identificationRequest }
                : { type: payloadTypes.identificationRequestByVin, payload: Buffer.from(vin, "latin1") };
          return askByDatagram(settings, { ...ask, ...by }, parseIdentification, signal);
        },
        routing_activation: async ({ signal }, type = 0) => (await link.use(signal)).activate(type, signal),
        send_diagnostic: async ({ signal }, { data }) => (await link.use(signal)).sendDiagnostic(data, signal),
        async receive_diagnostic({ signal }, seconds = defaultSeconds) {
          const connection = await link.use(signal);
          const data = await connection.receiveDiagnostic({ timeoutMs: seconds * 1000, signal });
          if (data !== undefined) return { data: toHex(data) };
          throw new AgentError("E_TIMEOUT", `no diagnostic message within ${seconds} s`);
        },
        async reconnect({ signal }, delaySeconds = defaultSeconds) {
          link.shut();
          try {
            await sleep(delaySeconds * 1000, undefined, { signal });
          } finally {
            link.reset();
          }
          await link.use(signal);
        },
        close_connection: () => link.shut(),
      },
      release: () => link.reset(),
      close: () => link.shut(),
    };
  },
});
