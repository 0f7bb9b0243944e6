import type { Duplex } from "node:stream";

/** A NOYITO serial relay board at the far end of a cable: obeys right checksums, and answers FF with its state. */
export interface NoyitoBoard {
  readonly relays: boolean[];
  /** Every command, right or wrong, in hex. */
  readonly commands: string[];
  /** How it answers a question. */
  answer: () => string;
}

export function simulateNoyito(line: Duplex, channels = 2): NoyitoBoard {
  const relays = Array.from({ length: channels }, () => false);
  const board: NoyitoBoard = {
    relays,
    commands: [],
    answer: () => relays.map((on, index) => `CH${index + 1}:${on ? "ON " : "OFF "}\r\n`).join(""),
  };
  let received = Buffer.alloc(0);
  line.on("data", (data: Buffer) => {
    received = Buffer.concat([received, data]);
    for (;;) {
      if (received[0] === 0xff) {
        board.commands.push("ff");
        received = received.subarray(1);
        line.write(board.answer());
      } else if (received[0] === 0xa0 && received.length >= 4) {
        const command = received.subarray(0, 4);
        received = received.subarray(4);
        board.commands.push(command.toString("hex"));
        const [, channel = 0, state = 0, sum] = command;
        if (sum === ((0xa0 + channel + state) & 0xff) && channel <= channels) relays[channel - 1] = state === 1;
      } else if (received.length > 0 && received[0] !== 0xa0) {
        received = received.subarray(1);
      } else {
        return;
      }
    }
  });
  return board;
}
