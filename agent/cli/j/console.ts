import type { Duplex } from "node:stream";
import { AgentError } from "../../driver/errors.ts";

const ctrlB = 0x02;
const escapeCount = 3;

const greeting = "\r\nStarting serial port console ... exit with CTRL+B x 3 times\r\n\r\n";

/**
 * Connects the terminal with a serial console, byte for byte, until Ctrl-B is typed three times in a row or the
 * console ends. The terminal is put back in every case, the stream destroyed.
 * @throws AgentError E_USAGE if stdin is no terminal; nothing is opened then.
 */
export async function runConsole(open: () => Promise<Duplex>): Promise<void> {
  const { stdin, stdout } = process;
  if (!stdin.isTTY) throw new AgentError("E_USAGE", "a console needs a terminal; `pipe` works without one");
  const stream = await open();
  let typed = 0;
  const onInput = (keys: Buffer) => {
    for (const [index, key] of keys.entries()) {
      typed = key === ctrlB ? typed + 1 : 0;
      if (typed < escapeCount) continue;
      // The last Ctrl-B is ours; what was typed before it still goes to the board.
      stream.write(keys.subarray(0, index));
      stream.destroy();
      return;
    }
    if (!stream.write(keys)) stdin.pause();
  };
  const wasRaw = stdin.isRaw;
  stdin.setRawMode(true);
  // Only now: what is typed from here on goes to the board.
  stdout.write(greeting);
  try {
    await new Promise<void>((resolve, reject) => {
      stream.on("data", (output: Buffer) => {
        if (!stdout.write(output)) stream.pause();
      });
      stdout.on("drain", resume);
      stream.on("drain", () => stdin.resume());
      stream.once("end", resolve);
      stream.once("error", reject);
      stream.once("close", resolve);
      stdin.on("data", onInput);
      stdin.once("end", () => stream.end());
    });
  } finally {
    stdin.setRawMode(wasRaw);
    stdin.off("data", onInput);
    stdin.pause();
    stdout.off("drain", resume);
    stream.destroy();
  }

  function resume(): void {
    stream.resume();
  }
}
