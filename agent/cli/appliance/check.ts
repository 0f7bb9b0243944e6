import { readHostConfig } from "../../../appliance/first-boot/choose.ts";
import { defineCommand } from "../command.ts";

export const check = defineCommand({
  name: "appliance check",
  summary: "Check jumpstarter.yaml and the exporters/ beside it. Changes nothing.",
  words: { usage: "FOLDER", least: 1, most: 1 },
  options: {},
  notes:
    "FOLDER is where the file lies. Prints a line FILE:LINE:COLUMN: PATH: MESSAGE for each problem; exit code 1 if there is any.",

  async run(_options, [folder = "."]) {
    const read = await readHostConfig(folder);
    process.stdout.write("problems" in read ? read.problems.join("\n") + "\n" : `${folder}: ok\n`);
    return "problems" in read ? 1 : 0;
  },
});
