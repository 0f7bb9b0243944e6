import { defineCommand } from "./command.ts";
export const check = defineCommand({ name: "check", summary: "", options: {}, run: async () => 0 });
