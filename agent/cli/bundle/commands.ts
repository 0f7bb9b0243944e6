import type { CommandGroup } from "../command.ts";

/** `jmp-agent bundle …`: one file, one line. */
export const bundle: CommandGroup = {
  summary: "What a board netboots to flash itself: made, moved, checked and kept as OCI artifacts.",
  commands: {},
};
