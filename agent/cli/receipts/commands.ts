import type { CommandGroup } from "../command.ts";

/** `jmp-agent receipts …`: one file, one line. */
export const receipts: CommandGroup = {
  summary: "What was flashed on this host, by whom and how it ended.",
  commands: {
    list: {
      summary: "List the flashes of this host",
      load: async () => (await import("./list.ts")).list,
    },
    show: {
      summary: "Show one receipt, or make a page of several",
      load: async () => (await import("./show.ts")).show,
    },
    verify: {
      summary: "Check that receipts are as they were signed",
      load: async () => (await import("./verify.ts")).verify,
    },
    keygen: {
      summary: "Make the key that signs the receipts of this host",
      load: async () => (await import("./keygen.ts")).keygen,
    },
  },
};
