import { TelemetryServiceDefinition } from "../../../proto/gen/jumpstarter/v1/telemetry.ts";
import { status } from "@grpc/grpc-js";
import { bearerToken } from "./auth.ts";
import type { Service } from "./port.ts";
import { RpcError, service, type Hooks } from "./rpc.ts";
import type { World } from "./world.ts";

/** More entries in one batch are dropped. */
const maxBatch = 500;

/** Takes the log records of exporters; entries that claim to be from another exporter are dropped. */
export function telemetryService(world: World, hooks: Hooks): Service {
  const { records } = hooks;
  return service(
    TelemetryServiceDefinition,
    {
      pushLogs({ entries }, call) {
        const token = bearerToken(call.metadata);
        const owner = [...world.exporters.values()].find(({ tokens }) => tokens.has(token));
        if (!owner) throw new RpcError(status.UNAUTHENTICATED, "invalid token: failed to authenticate token");
        const own = entries.slice(0, maxBatch).filter(({ exporter, namespace }) => {
          return exporter === owner.name && (namespace === "" || namespace === owner.namespace);
        });
        for (const entry of own) records.logs.push({ atMs: records.nowMs(), entry });
        records.touched();
        return { accepted: own.length, dropped: entries.length - own.length };
      },
    },
    hooks,
  );
}
