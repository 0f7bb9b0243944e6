import type { CommandGroup } from "../command.ts";

/** `jmp-agent bundle …`: one file, one line. */
export const bundle: CommandGroup = {
  summary: "What a board netboots to flash itself: made, moved, checked and kept as OCI artifacts.",
  commands: {
    build: {
      summary: "Make a bundle of a directory",
      load: async () => (await import("./build.ts")).build,
    },
    push: {
      summary: "Copy a bundle from one place to another",
      load: async () => (await import("./push.ts")).push,
    },
    inspect: {
      summary: "Show what a bundle holds",
      load: async () => (await import("./inspect.ts")).inspect,
    },
    verify: {
      summary: "Read every byte of a bundle and compare",
      load: async () => (await import("./verify.ts")).verify,
    },
  },
};
