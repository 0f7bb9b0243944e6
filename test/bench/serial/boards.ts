// Boards that print as fast as their lines take it, in a process of their own.
// usage: boards.ts COUNT BYTES_PER_SECOND SECONDS     prints the paths of their ports, waits for a line, prints what it has done
import { once } from "node:events";
import { readlinkSync, write } from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { loadPtys } from "../../../agent/sys/pty.ts";
import { output } from "./output.ts";

/** A UART's driver hands on what its FIFO has about that often. */
const tickMs = 5;

const [, , count = "8", rate = "300000", seconds = "60"] = process.argv;
const ptys = await loadPtys();
const boards = Array.from({ length: Number(count) }, (_, port) => {
  const { controller, terminal } = ptys.open();
  return { port, controller, path: readlinkSync(`/proc/self/fd/${terminal}`), sent: 0, heldBack: 0 };
});
const lines = createInterface({ input: process.stdin });
console.log(JSON.stringify(boards.map(({ path }) => path)));
await once(lines, "line");

const began = performance.now();
const total = Number(rate) * Number(seconds);
const send = promisify(write);
await Promise.all(
  boards.map(async (board) => {
    while (board.sent < total) {
      const due = Math.min(total, Math.floor(((performance.now() - began) / 1000) * Number(rate)));
      while (board.sent < due) {
        const bytes = output(board.port, board.sent, Math.min(due - board.sent, 2_000));
        try {
          const { bytesWritten } = await send(board.controller, bytes);
          board.sent += bytesWritten;
          board.heldBack += bytes.length - bytesWritten;
        } catch (error) {
          if ((error as NodeJS.ErrnoException).code !== "EAGAIN") throw error;
          // A real line would not wait for its reader: this would be lost.
          board.heldBack += bytes.length;
          break;
        }
      }
      await sleep(tickMs);
    }
  }),
);
const heldBack = boards.reduce((sum, board) => sum + board.heldBack, 0);
console.log(JSON.stringify({ seconds: (performance.now() - began) / 1000, heldBack }));
await once(lines, "close");
