import { AgentError } from "../../driver/errors.ts";
import { defineCommand, type Command, type Commands } from "../command.ts";
import { loadCommandTree } from "../command-tree.ts";
import { bashCompletion } from "./bash.ts";
import { fishCompletion } from "./fish.ts";
import { completionTable, type Place } from "./table.ts";
import { zshCompletion } from "./zsh.ts";

const shells: Readonly<Record<string, (program: string, places: readonly Place[]) => string>> = {
  bash: bashCompletion,
  zsh: zshCompletion,
  fish: fishCompletion,
};

/** @param commands what is completed: all there are, this one among them */
export const completionOf = (commands: Commands): Command =>
  defineCommand({
    name: "completion",
    summary: "Print the script with which bash, zsh or fish completes the words of jmp-agent.",
    words: { usage: Object.keys(shells).join("|"), least: 1, most: 1 },
    options: {},
    notes: `
Examples:
  jmp-agent completion bash > ~/.local/share/bash-completion/completions/jmp-agent
  jmp-agent completion zsh > "\${fpath[1]}/_jmp-agent"
  jmp-agent completion fish > ~/.config/fish/completions/jmp-agent.fish`,

    async run(_given, [shell = ""]) {
      const script = Object.hasOwn(shells, shell) ? shells[shell] : undefined;
      if (script === undefined) {
        throw new AgentError("E_USAGE", `no such shell: ${shell}`, {
          hint: `one of ${Object.keys(shells).join(", ")}`,
        });
      }
      process.stdout.write(script("jmp-agent", completionTable(await loadCommandTree("", commands))));
      return 0;
    },
  });
