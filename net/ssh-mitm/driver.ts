import { join } from "node:path";
import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import { AgentError } from "../../agent/driver/errors.ts";
import * as lax from "../../agent/driver/lax.ts";
import { stateDirectory } from "../../agent/sys/state-directory.ts";
import { network } from "../sockets/interface.ts";
import { bothKnownHosts, hasBothKnownHosts, hostKeyFields, pinnedHostKeys } from "../ssh/host-keys.ts";
import { bothIdentities, hasBothIdentities, identityFields, identityOf, lacksIdentity } from "../ssh/identity.ts";
import type { Gateway } from "./gateway.ts";

const seconds = lax.number().pipe(z.number().positive("must be more than 0").max(86_400));

export default defineDriver({
  types: ["jumpstarter_driver_ssh_mitm.driver.SSHMITM"],
  summary: "An SSH server that logs in on the board behind `tcp` with a key that stays here.",
  implements: network,
  config: z
    .strictObject({
      default_username: z.string().default("").describe("if given, clients log in as this user and as no other"),
      ...identityFields,
      ...hostKeyFields,
      channel_timeout: seconds.prefault(30).describe("seconds for a client to log in, and to say what is to run"),
      connect_timeout: seconds.prefault(10).describe("seconds for the login on the board"),
      keepalive_interval: seconds.prefault(15).describe("seconds; a board that leaves three questions open is lost"),
      allow_forwarding: lax.boolean().prefault(false).describe("lets clients forward ports, sockets, agents and X11"),
      default_pty_width: lax.int(1, 10_000).prefault(80).describe("columns, for clients that do not know theirs"),
      default_pty_height: lax.int(1, 10_000).prefault(24).describe("rows, for clients that do not know theirs"),
    })
    .refine((config) => !hasBothIdentities(config), { error: bothIdentities })
    .refine((config) => !lacksIdentity(config), { error: "Either ssh_identity or ssh_identity_file must be provided" })
    .refine((config) => !hasBothKnownHosts(config), { error: bothKnownHosts }),
  requires: { tcp: "'tcp' child is required via ref, or directly as a TcpNetwork driver instance" },
  open({ config, children, exporter, log }) {
    const identity = identityOf(config);
    const gateways = new Set<Gateway>();
    const tcp = children.get("tcp");
    // Made when it is needed, for all drivers of the exporter: registration leaves nothing behind.
    let hostKey: Promise<string> | undefined;
    const endAll = () => {
      for (const gateway of gateways) gateway.close();
    };
    return {
      methods: {
        async connect({ signal }) {
          const [{ Gateway }, { keptHostKey }] = await Promise.all([import("./gateway.ts"), import("./host-key.ts")]);
          hostKey ??= keptHostKey(join(stateDirectory(), "ssh-host-keys"), exporter, log);
          const gateway = new Gateway({
            hostKey: await hostKey,
            onlyUser: config.default_username,
            dial: async (signal) => {
              if (tcp === undefined) throw new AgentError("E_CONFIG", "there is no child tcp");
              return await tcp.as(network, { signal }).connect();
            },
            identity: async () => (await identity()) ?? "",
            pinned: () => pinnedHostKeys(config),
            forwarding: config.allow_forwarding,
            terminal: { columns: config.default_pty_width, rows: config.default_pty_height },
            channelTimeoutMs: config.channel_timeout * 1_000,
            connectTimeoutMs: config.connect_timeout * 1_000,
            keepaliveMs: config.keepalive_interval * 1_000,
            log,
          });
          gateways.add(gateway);
          gateway.stream.once("close", () => gateways.delete(gateway));
          if (signal.aborted) gateway.close();
          return gateway.stream;
        },
      },
      release: endAll,
      close: endAll,
    };
  },
  inspect: async (config) => {
    try {
      await Promise.all([identityOf(config)(), pinnedHostKeys(config)]);
      return [];
    } catch (error) {
      return [{ ok: false, text: (error as Error).message, hint: "no client gets a login on the board" }];
    }
  },
});
