import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import { bothKnownHosts, hasBothKnownHosts, hostKeyFields, pinnedHostKeys } from "./host-keys.ts";
import { bothIdentities, hasBothIdentities, identityFields, identityOf, lacksIdentity } from "./identity.ts";
import { sshWrapper } from "./interface.ts";
import { withPinnedKeys } from "./known-hosts.ts";

const usualCommand = "ssh -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR";

export default defineDriver({
  types: ["jumpstarter_driver_ssh.driver.SSHWrapper"],
  summary: "Tells clients how to run ssh to the board behind `tcp`.",
  implements: sshWrapper,
  config: z
    .strictObject({
      default_username: z.string().default("").describe("whom clients log in as if they do not say"),
      ssh_command: z
        .string()
        .default(usualCommand)
        .describe("program and options, split by the client as a shell does"),
      ...identityFields,
      ...hostKeyFields,
    })
    .refine((config) => !hasBothIdentities(config), { error: bothIdentities })
    .refine((config) => !hasBothKnownHosts(config), { error: bothKnownHosts }),
  requires: { tcp: "'tcp' child is required via ref, or directly as a TcpNetwork driver instance" },
  open({ config }) {
    const identity = identityOf(config);
    let warned = false;
    return {
      methods: {
        get_default_username: () => config.default_username,
        async get_ssh_command() {
          const keys = await pinnedHostKeys(config);
          return keys === undefined ? config.ssh_command : withPinnedKeys(config.ssh_command, keys);
        },
        async get_ssh_identity({ log }) {
          const key = await identity();
          if (key !== null && !warned) {
            warned = true;
            log.warn(
              "the board's private key leaves the exporter; jumpstarter_driver_ssh_mitm.driver.SSHMITM keeps it here",
            );
          }
          return key;
        },
      },
      // Each lease is told once.
      reset() {
        warned = false;
      },
    };
  },
  inspect: async (config) => {
    if (lacksIdentity(config)) return [];
    try {
      await identityOf(config)();
      return [];
    } catch (error) {
      return [{ ok: false, text: (error as Error).message, hint: "clients get this error when they run ssh" }];
    }
  },
});
