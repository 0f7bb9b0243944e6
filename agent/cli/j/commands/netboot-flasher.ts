import type { Commands } from "../command.ts";
export const commands: Commands = {};
