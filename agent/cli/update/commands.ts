import type { CommandGroup } from "../command.ts";

/** `jmp-agent update …`: one file, one line. */
export const update: CommandGroup = {
  summary: "The system of the appliance: updated to the slot that does not run, tried, and confirmed or rolled back.",
  otherwise: async () => (await import("./apply.ts")).apply,
  commands: {
    status: {
      summary: "Show both systems, and what became of the last update",
      load: async () => (await import("./status.ts")).status,
    },
    confirm: {
      summary: "End the trial of the system that runs",
      load: async () => (await import("./confirm.ts")).confirm,
    },
    rollback: {
      summary: "Go back to the other system",
      load: async () => (await import("./rollback.ts")).rollback,
    },
    build: {
      summary: "Make an update of a root, a kernel and an initramfs, and sign it",
      load: async () => (await import("./build.ts")).build,
    },
  },
};
