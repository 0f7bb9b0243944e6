#!/usr/bin/env node
// A double of the probe-rs program with a probe and a target. It does what the name of its chip says (PROBE_RS_CHIP):
// `fails` has a broken target, `hangs` never answers, `chatters` prints without an end, `lies` prints no words.
// Beside itself, it appends its words, its environment and what it was given to flash to the file `calls`, and to `turns` when
// it begins and ends.
import { spawn } from "node:child_process";
import { appendFileSync, readFileSync, statSync } from "node:fs";
import { dirname, join } from "node:path";

const note = (name, line) => appendFileSync(join(dirname(process.argv[1]), name), `${line}\n`);
note("turns", `begin ${process.pid}`);
process.on("exit", () => note("turns", `end ${process.pid}`));
const [command, ...words] = process.argv.slice(2);
const chip = process.env.PROBE_RS_CHIP ?? "";
const call = { pid: process.pid, command, words, env: process.env };
if (command === "download") {
  call.content = readFileSync(words[0], "utf8");
  call.mode = statSync(dirname(words[0])).mode & 0o777;
}
if (chip === "hangs") call.child = spawn("sleep", ["600"], { stdio: "inherit" }).pid;
note("calls", JSON.stringify(call));

if (chip === "fails") {
  console.error(
    " WARN probe_rs::probe: one\nError: Connecting to the chip was unsuccessful.\n\nCaused by:\n    no ACK",
  );
  process.exitCode = 1;
} else if (chip === "hangs") {
  setTimeout(() => {}, 600_000);
} else if (chip === "chatters") {
  const chatter = () => process.stdout.write("x".repeat(65_536), chatter);
  chatter();
} else if (command === "read") {
  const digits = { b8: 2, b16: 4, b32: 8, b64: 16 }[words[0]];
  const memory = Array.from({ length: Number(words[2]) }, (_, index) =>
    (0xdeadbeefn + BigInt(index)).toString(16).slice(-digits).padStart(digits, "0"),
  );
  console.log(chip === "lies" ? "no memory today" : `${memory.slice(0, 2).join("  ")} \n${memory.slice(2).join(" ")}`);
} else if (command === "info") {
  console.log("Target: nRF52840_xxAA\nFlash size: 1MB");
} else {
  console.log("ok");
}
