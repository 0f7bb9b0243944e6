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
    pull: {
      summary: "Fetch a bundle into this host's cache",
      load: async () => (await import("./pull.ts")).pull,
    },
    inspect: {
      summary: "Show what a bundle holds",
      load: async () => (await import("./inspect.ts")).inspect,
    },
    verify: {
      summary: "Read every byte of a bundle and compare",
      load: async () => (await import("./verify.ts")).verify,
    },
    export: {
      summary: "Write a bundle to a directory or a tar archive",
      load: async () => (await import("./export.ts")).exportBundle,
    },
    import: {
      summary: "Take a bundle from a directory or a tar archive into this host's cache",
      load: async () => (await import("./import.ts")).importBundle,
    },
    list: {
      summary: "Show the bundles in this host's cache",
      load: async () => (await import("./list.ts")).list,
    },
    pin: {
      summary: "Keep a bundle in this host's cache, whatever its limit",
      load: async () => (await import("./pin.ts")).pin,
    },
    unpin: {
      summary: "Let a bundle leave this host's cache again",
      load: async () => (await import("./pin.ts")).unpin,
    },
    prune: {
      summary: "Remove bundles from this host's cache",
      load: async () => (await import("./prune.ts")).prune,
    },
    sign: {
      summary: "Sign a bundle, as cosign does",
      load: async () => (await import("./sign.ts")).sign,
    },
    keygen: {
      summary: "Make a pair of keys to sign bundles with",
      load: async () => (await import("./keygen.ts")).keygen,
    },
  },
};
