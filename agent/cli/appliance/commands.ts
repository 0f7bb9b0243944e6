import type { CommandGroup } from "../command.ts";

/** `jmp-agent appliance …`: one file, one line. */
export const appliance: CommandGroup = {
  summary: "The host that the agent's image makes, and its jumpstarter.yaml.",
  commands: {
    apply: {
      summary: "Make this host what jumpstarter.yaml on its boot partition says",
      load: async () => (await import("./apply.ts")).apply,
    },
    check: {
      summary: "Check a jumpstarter.yaml before it is written to a card",
      load: async () => (await import("./check.ts")).check,
    },
  },
};
