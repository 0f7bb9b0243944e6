import { defaultReceiptDirectory } from "../../ops/receipts/place.ts";
import { ReceiptStore, type KeptFlash } from "../../ops/receipts/store.ts";
import { defineCommand } from "../command.ts";
import { receiptDirectoryOption } from "../receipt-options.ts";
import { printable, seconds } from "./text.ts";

export const list = defineCommand({
  name: "receipts list",
  summary: "List the flashes of this host, oldest first.",
  options: {
    ...receiptDirectoryOption,
    json: { type: "boolean", help: "a line of JSON for each flash: id, state, receipt" },
  },
  notes: `
The verdict is one of
  verified     the disk was read back and holds the image
  written      the disk took the image, and was not read back, as it was asked for
  failed       the receipt says at which step, and why
  interrupted  the agent ended in the middle
  running      it goes on now
and a star says that the receipt is signed.

Example:
  jmp-agent receipts list`,

  async run({ receipts: directory = defaultReceiptDirectory(), json }) {
    const flashes = await new ReceiptStore({ directory }).list();
    if (json === true) {
      for (const flash of flashes) process.stdout.write(JSON.stringify(flash) + "\n");
      return 0;
    }
    if (flashes.length === 0) process.stderr.write(`nothing was flashed yet: ${directory} holds no receipts\n`);
    process.stdout.write(columns(flashes.map(row)));
    return 0;
  },
});

function row(flash: KeptFlash): string[] {
  if (flash.state === "damaged") return [flash.id, "damaged", "", "", flash.problem];
  if (flash.state === "running") return [flash.id, "running", "", flash.start.driver, flash.start.image.name ?? ""];
  const { verdict, durationMs, driver, image, target, failure } = flash.receipt;
  const what = [image.name ?? "a stream", target && `to ${target.path}`, failure && `(${failure.step})`];
  return [
    flash.id,
    `${verdict}${flash.signed ? " *" : ""}`,
    durationMs === undefined ? "" : seconds(durationMs),
    driver,
    what.filter(Boolean).join(" "),
  ];
}

function columns(rows: readonly (readonly string[])[]): string {
  const shown = rows.map((row) => row.map(printable));
  const widths = [0, 1, 2, 3].map((column) => Math.max(0, ...shown.map((row) => row[column]?.length ?? 0)));
  return shown
    .map(
      (row) =>
        row
          .map((cell, column) => cell.padEnd(widths[column] ?? 0))
          .join("  ")
          .trimEnd() + "\n",
    )
    .join("");
}
