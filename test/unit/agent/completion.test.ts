// Completions are asked of the shells themselves.
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { completionTable } from "../../../agent/cli/completion/table.ts";
import { loadCommandTree } from "../../../agent/cli/command-tree.ts";
import { commands } from "../../../agent/cli/commands.ts";
import { bashCompletion } from "../../../agent/cli/completion/bash.ts";
import { fishCompletion } from "../../../agent/cli/completion/fish.ts";
import { zshCompletion } from "../../../agent/cli/completion/zsh.ts";
import { scratch } from "../../sim/agent.ts";

const table = completionTable(await loadCommandTree("", commands));

/** What is offered for the last of these words. */
type Complete = (words: readonly string[]) => string[];

const missing = (shell: string) => spawnSync(shell, ["--version"]).error !== undefined && `needs ${shell}`;

describe("bash", () => {
  test("every command, option and choice of every place", (t) => {
    const directory = scratch(t);
    const script = join(directory, "completion");
    writeFileSync(script, bashCompletion("jmp-agent", table));
    const asked = table.flatMap(({ words, commands: below, options }) => [
      { words: [words, ""], offered: below.map(({ name }) => name) },
      { words: [words, "--"], offered: options.map(({ name }) => name) },
      ...options.flatMap(({ name, value }) =>
        Array.isArray(value) ? [{ words: [words, name, ""], offered: value as string[] }] : [],
      ),
    ]);
    // One shell for all, in a directory without files.
    const questions = asked.map(({ words }) =>
      words
        .flatMap((word, index) => (index === 0 ? word.split(" ").filter((each) => each !== "") : [word]))
        .map((word) => `'${word}'`)
        .join(" "),
    );
    const program = `. "$1"
      ask() { COMP_WORDS=(jmp-agent "$@"); COMP_CWORD=$#; _jmp_agent; echo "\${COMPREPLY[*]}"; }
      ${questions.map((question) => `ask ${question}`).join("\n")}`;
    const answers = run("bash", ["-c", program, "bash", script], scratch(t));
    const got = answers.trimEnd().split("\n");
    assert.equal(got.length, asked.length);
    for (const [index, { words, offered }] of asked.entries()) {
      assert.deepEqual(got[index]?.split(" ").filter(Boolean).sort(), [...offered].sort(), words.join(" "));
    }
  });

  test("files where paths belong, nothing where other values do", (t) => {
    const directory = scratch(t);
    writeFileSync(join(directory, "disk.img"), "");
    const script = join(directory, "completion");
    writeFileSync(script, bashCompletion("jmp-agent", table));
    const complete: Complete = (words) => {
      const program = `. "$1"; shift; COMP_WORDS=(jmp-agent "$@"); COMP_CWORD=$#; _jmp_agent; echo "\${COMPREPLY[*]}"`;
      return run("bash", ["-c", program, "bash", script, ...words], directory)
        .trim()
        .split(" ")
        .filter(Boolean);
    };
    assert.deepEqual(complete(["flash", "di"]), ["disk.img"]);
    assert.deepEqual(complete(["flash", "--receipt", "di"]), ["disk.img"]);
    assert.deepEqual(complete(["flash", "--retries", "di"]), []);
    assert.deepEqual(complete(["status", "di"]), []);
    assert.deepEqual(complete(["--log-level", "debug", "bundle", "verif"]), ["verify"]);
  });
});

test("fish", { skip: missing("fish") }, (t) => {
  const directory = scratch(t);
  writeFileSync(join(directory, "disk.img"), "");
  const script = join(directory, "completion.fish");
  writeFileSync(script, fishCompletion("jmp-agent", table));
  const complete: Complete = (words) => {
    const line = ["jmp-agent", ...words].join(" ");
    const said = run("fish", ["-N", "-c", 'source $argv[1]; complete -C "$argv[2]"', script, line], directory);
    return said.split("\n").flatMap((each) => each.split("\t").slice(0, 1).filter(Boolean));
  };
  assert.deepEqual(complete(["bundle", "pu"]), ["pull", "push"]);
  assert.deepEqual(complete(["flash", "--method", ""]), ["fls", "shell"]);
  assert.deepEqual(complete(["flash", "--metho"]), ["--method"]);
  assert.deepEqual(complete(["flash", "dis"]), ["disk.img"]);
  assert.deepEqual(complete(["status", "dis"]), []);
});

test("zsh", { skip: missing("zsh") }, (t) => {
  const directory = scratch(t);
  writeFileSync(join(directory, "disk.img"), "");
  writeFileSync(join(directory, "completion.zsh"), zshCompletion("jmp-agent", table));
  const typed = ["bundle veri", "flash --metho", "flash --method sh", "flash dis", "status dis"];
  // A terminal of its own, in which a key writes down what the line has become.
  const program = `
    zmodload zsh/zpty zsh/zselect
    zpty z zsh -f -i
    zpty -w z 'autoload -Uz compinit; compinit -u -D; source ./completion.zsh; bindkey "^I" complete-word
      tell() { print -r -- "$BUFFER" >> told; zle kill-whole-line }; zle -N tell; bindkey "^T" tell'
    for line in "$@"; do zpty -w -n z "jmp-agent $line"$'\\t\\x14'; done
    for (( waited = 0; waited < 1000; waited++ )); do
      [[ -e told && $(wc -l < told) -ge $# ]] && break
      while zpty -r -t z said; do :; done
      zselect -t 1
    done
    zpty -d z
    cat told`;
  const told = run("zsh", ["-f", "-c", program, "zsh", ...typed], directory);
  assert.deepEqual(told.replaceAll(/ +$/gm, "").trimEnd().split("\n"), [
    "jmp-agent bundle verify",
    "jmp-agent flash --method",
    "jmp-agent flash --method shell",
    "jmp-agent flash disk.img",
    "jmp-agent status dis",
  ]);
});

function run(shell: string, words: readonly string[], directory: string): string {
  return execFileSync(shell, words, {
    cwd: directory,
    encoding: "utf8",
    env: { PATH: process.env["PATH"], HOME: directory, TERM: "dumb" },
    stdio: ["ignore", "pipe", "inherit"],
    timeout: 60_000,
  });
}
