import { shippedDrivers } from "../driver/catalog.ts";
import { collectSuggestions, suggestionsAsYaml } from "../ops/suggest.ts";
import { defineCommand } from "./command.ts";

export const suggest = defineCommand({
  name: "suggest",
  summary: "Print configuration for what is plugged in. Changes nothing.",
  options: {
    json: { type: "boolean", help: "print one object: found (name, entry, why), failures" },
  },
  notes: `
Prints an export: section to put into an exporter configuration, with a comment above each entry that says what it is for.
What a driver could not look at is in comments at the top.`,

  async run({ json }) {
    const suggestions = await collectSuggestions(shippedDrivers);
    if (json) process.stdout.write(`${JSON.stringify(suggestions, undefined, 2)}\n`);
    else process.stdout.write(suggestionsAsYaml(suggestions));
    return 0;
  },
});
