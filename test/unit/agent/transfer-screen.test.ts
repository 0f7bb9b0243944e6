import assert from "node:assert/strict";
import { test } from "node:test";
import { TransferScreen, transferRows } from "../../../agent/cli/transfer-screen.ts";
import type { RunningTransfer } from "../../../agent/driver/shown.ts";

const download: RunningTransfer = {
  protocol: "tftp",
  view: "boot",
  peer: "10.0.0.7:2048",
  name: "Image",
  direction: "to-board",
  sizeBytes: 20_000_000,
  movedBytes: 5_000_000,
  startedMs: 1_000,
};

test("a row tells who fetches what, how far it is and how fast", () => {
  const upload = {
    ...download,
    protocol: "http",
    name: "/uploads/log",
    direction: "from-board",
    sizeBytes: undefined,
  } as const;
  assert.deepEqual(transferRows([download, upload], { columns: 120, nowMs: 3_000 }), [
    "tftp → 10.0.0.7:2048  █████░░░░░░░░░░░░░░░  25 % of 20.0 MB  2.5 MB/s  Image",
    "http ← 10.0.0.7:2048  5.0 MB  2.5 MB/s  /uploads/log",
  ]);
});

test("rows are no wider than the terminal, not endless, and what boards name moves no cursor", () => {
  const nasty = { ...download, name: "\x1b[2J\x9b2J\nIm\u00e4ge" };
  const [row = ""] = transferRows([nasty], { columns: 120, nowMs: 3_000 });
  assert.ok(row.endsWith("  ?[2J?2J?Im\u00e4ge"), row);
  const rows = transferRows(Array(30).fill(download), { columns: 40, nowMs: 3_000 });
  assert.equal(rows.length, 11);
  assert.ok(rows.every((one) => one.length <= 40));
  assert.equal(rows.at(-1), "… and 20 more");
  assert.deepEqual(transferRows([{ ...download, sizeBytes: 0, movedBytes: 0 }], { columns: 60, nowMs: 1_000 }), [
    "tftp → 10.0.0.7:2048  ████████████████████ 100 % of 0.0 MB …",
  ]);
});

/** What a terminal shows that understands just what the screen uses of it. */
function terminal(columns = 100) {
  let shown: string[] = [""];
  return {
    columns,
    write(text: string) {
      // eslint-disable-next-line no-control-regex -- terminals are told by control characters
      for (const [, up, clear, newline, rest] of text.matchAll(/(\x1b\[(?:\d+)A\r)|(\x1b\[J)|(\n)|([^\x1b\n]+)/g)) {
        if (up !== undefined) shown = shown.slice(0, shown.length - 1 - Number(/\d+/.exec(up)?.[0])).concat("");
        else if (clear !== undefined) shown = shown.slice(0, -1).concat("");
        else if (newline !== undefined) shown.push("");
        else shown = shown.slice(0, -1).concat(`${shown.at(-1) ?? ""}${rest ?? ""}`);
      }
      return true;
    },
    lines: () => shown.filter((line) => line !== ""),
  };
}

test("the list stays below the lines, is drawn over, and goes at the end", async () => {
  const screen = terminal();
  const list = new TransferScreen(screen);
  const time = new Date(2026, 0, 2, 3, 4, 5);
  let running: RunningTransfer[] = [download, { ...download, name: "dtb" }];
  list.line({ time, severity: "INFO", message: "serving" });
  list.watch(() => running);
  list.line({ time, severity: "WARNING", message: "one\nline" });
  assert.deepEqual(
    screen.lines().map((line) => line.split(" ").at(-1)),
    ["serving", "one?line", "Image", "dtb"],
  );
  assert.equal(screen.lines()[1], "03:04:05 warning: one?line");
  running = [download];
  await new Promise((resolve) => setTimeout(resolve, 600));
  assert.deepEqual(
    screen.lines().map((line) => line.split(" ").at(-1)),
    ["serving", "one?line", "Image"],
  );
  list.close();
  assert.deepEqual(screen.lines(), ["03:04:05 serving", "03:04:05 warning: one?line"]);
});
