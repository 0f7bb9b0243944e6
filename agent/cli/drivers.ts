import { defineCommand } from "./command.ts";
export const drivers = defineCommand({ name: "drivers", summary: "", options: {}, run: async () => 0 });
