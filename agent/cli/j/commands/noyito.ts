import { noyitoRelay } from "../../../../boards/noyito/interface.ts";
import { command, type Commands } from "../command.ts";
import { commands as powerCommands } from "./power.ts";

export const commands: Commands = {
  ...powerCommands,
  status: command({
    help: "Query relay channel state",
    run: async ({ node, signal, print }) => print(await node.as(noyitoRelay, { signal }).status()),
  }),
};
