import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { captureArguments } from "../../../../net/dut-network/capture.ts";

test("options of display, and a filter behind them that can be no option", () => {
  for (const [given, expected] of [
    [[], []],
    [
      ["-nn", "-c", "5", "icmp"],
      ["-n", "-n", "-c", "5", "--", "icmp"],
    ],
    [
      ["-nnvXs0", "port", "80"],
      ["-n", "-n", "-v", "-X", "-s", "0", "--", "port", "80"],
    ],
    [
      ["tcp", "-n", "and", "port 22"],
      ["-n", "--", "tcp", "and", "port 22"],
    ],
    [
      ["--snapshot-length=96", "--number"],
      ["-s", "96", "--number"],
    ],
    [
      ["--direction", "in"],
      ["-Q", "in"],
    ],
    [
      ["-n", "--", "-i", "eth0"],
      ["-n", "--", "-i", "eth0"],
    ],
    [["-"], ["--", "-"]],
  ] as const) {
    assert.deepEqual(captureArguments(given), expected, given.join(" "));
  }
});

/** Ways past a list of forbidden words, each of which reads, writes, runs or listens elsewhere. */
const attempts = [
  ["-i", "eth0"],
  ["-ieth0"],
  ["-nieth0"],
  ["-n", "-vi", "any"],
  ["--interface", "eth0"],
  ["--interface=eth0"],
  ["--interf", "eth0"],
  ["--interf=eth0"],
  ["--i", "eth0"],
  ["-w", "/tmp/x"],
  ["-w/tmp/x"],
  ["-w-"],
  ["-nw/tmp/x"],
  ["-nnw", "/tmp/x"],
  ["icmp", "-w", "/tmp/x"],
  ["-c1", "-w/tmp/x"],
  ["-c", "1w/tmp/x"],
  ["-c", "-w"],
  ["-s0w/tmp/x"],
  ["-r", "/etc/shadow"],
  ["-r/etc/shadow"],
  ["-F", "/etc/shadow"],
  ["-F/etc/shadow"],
  ["-V", "/etc/shadow"],
  ["-V/etc/shadow"],
  ["-E", "file /etc/shadow"],
  ["-m", "/etc/shadow"],
  ["-z", "sh"],
  ["-zsh"],
  ["-G", "1", "-z", "sh", "-w", "/tmp/x"],
  ["-G1", "-zsh", "-w/tmp/%s"],
  ["-C", "1"],
  ["-W", "1"],
  ["-Z", "root"],
  ["-Zroot"],
  ["-nZroot"],
  ["--relinquish-privileges=root"],
  ["--relinquish-privileges", "root"],
  ["--relinq=root"],
  ["-D"],
  ["--list-interfaces"],
  ["-I"],
  ["--monitor-mode"],
  ["-y", "RAW"],
  ["-j", "host"],
  ["--count"],
  ["--print"],
  ["--version"],
  ["--snapshot-length=96 -w x"],
  ["--snapshot-length"],
  ["-s"],
  ["-c"],
  ["-c", "0"],
  ["-c", "1e9"],
  ["-c", "-1"],
  ["-B", "999999"],
  ["-Q", "sideways"],
  ["-T", "../x"],
  ["-n\n-w/tmp/x"],
  ["icmp\n-w"],
  ["icmp\0"],
  ["--", "icmp\0"],
  ["-\u2010w"],
  ["\u002dw", "/tmp/x"],
  ["-w=/tmp/x"],
  ["--w=/tmp/x"],
  ["-constructor"],
  ["-__proto__"],
  Array.from({ length: 300 }, () => "or"),
  ["x".repeat(10_000)],
];

for (const given of attempts) {
  const shown = JSON.stringify(given.slice(0, 4)).slice(0, 60);
  test(`refused: ${shown}`, () => {
    assert.throws(() => captureArguments(given), { code: "E_INVALID" });
  });
}

test("whatever is asked for, tcpdump is given allowed options only, and all else behind the end of options", () => {
  const allowed = /^-[#AbefKlNnOpqStUuvXx]$|^--(number|no-promiscuous-mode|no-optimize|dont-verify-checksums)$/;
  const word = fc.oneof(
    fc.string({ maxLength: 12 }),
    fc.constantFrom("-", "--", "-n", "-c", "-s", "5", "-w", "icmp", "-Q", "in", "--direction"),
    fc.string({ unit: fc.constantFrom("-", "n", "w", "c", "s", "z", "i", "1", "/", "="), maxLength: 8 }),
  );
  fc.assert(
    fc.property(fc.array(word, { maxLength: 8 }), (given) => {
      let words: string[];
      try {
        words = captureArguments(given);
      } catch {
        return;
      }
      const end = words.indexOf("--");
      const options = end === -1 ? words : words.slice(0, end);
      for (let index = 0; index < options.length; index += 1) {
        if (/^-[csBQT]$/.test(options[index] ?? "")) assert.match(options[++index] ?? "", /^[a-z0-9_]+$/);
        else assert.match(options[index] ?? "", allowed);
      }
    }),
    { numRuns: 20_000 },
  );
});
