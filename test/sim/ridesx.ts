import type { Duplex } from "node:stream";

/** A RideSX board's test harness at the far end of a cable: acknowledges every command, and asks for more. */
export interface RideSXHarness {
  readonly commands: string[];
  /** What it says to a command; undefined: nothing at all. */
  answer: (command: string) => string | undefined;
}

export function simulateRideSX(line: Duplex): RideSXHarness {
  const harness: RideSXHarness = { commands: [], answer: () => "ok\r\nCMD >> " };
  let received = "";
  line.on("data", (data: Buffer) => {
    received += data.toString("latin1");
    const lines = received.split("\r");
    received = lines.pop() ?? "";
    for (const command of lines) {
      harness.commands.push(command);
      // It echoes what is typed.
      line.write(`${command}\r\n${harness.answer(command) ?? ""}`);
    }
  });
  return harness;
}
