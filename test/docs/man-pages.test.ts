// The man pages that packages bring: one for each command, and nothing in them that a reader of roff would warn of.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { commandHelp } from "../../agent/cli/command.ts";
import { flatten, loadCommandTree } from "../../agent/cli/command-tree.ts";
import { commands } from "../../agent/cli/commands.ts";
import { manPages } from "../../scripts/man-pages.ts";

const missing = spawnSync("mandoc", ["-T", "lint"], { input: "" }).error !== undefined;

test("every command has a page that says what its help says", async () => {
  const pages = await manPages();
  for (const { words, command } of flatten(await loadCommandTree("", commands))) {
    const page = pages.get(`${["jmp-agent", ...words].join("-")}.1`);
    assert.ok(page, words.join(" "));
    if (command === undefined) continue;
    const shown = page
      .replaceAll("\\-", "-")
      .replaceAll("\\e", "\\")
      .replaceAll(/\\f[BIR]|\\&/g, "");
    for (const line of commandHelp(command).split("\n")) {
      if (/^(Usage: |[A-Z].*:$)|--help/.test(line) || line === "") continue;
      // Options stand on two lines there.
      for (const part of line.trim().split(/(?<=^--\S+(?: [^a-z ]\S*)?(?: \.\.\.)?)  +/)) {
        assert.ok(shown.includes(part.replace(/ \.\.\.$/, "").trim()), `${words.join(" ")}: ${part}`);
      }
    }
  }
});

test("mandoc has nothing to say", { skip: missing && "needs mandoc" }, async () => {
  for (const [name, roff] of await manPages()) {
    const { stdout, stderr } = spawnSync("mandoc", ["-T", "lint", "-W", "warning"], { input: roff, encoding: "utf8" });
    assert.equal(stdout + stderr, "", name);
  }
});
