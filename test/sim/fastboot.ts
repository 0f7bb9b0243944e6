/** A board in fastboot mode over TCP, for the real fastboot (AOSP, system/core/fastboot/README.md). */
import { once } from "node:events";
import { createServer } from "node:net";
import type { TestContext } from "node:test";

export interface FastbootBoard {
  /** For `-s`: `tcp:127.0.0.1:5554`. */
  readonly serial: string;
  /** What was flashed, by partition. */
  readonly partitions: Map<string, Buffer>;
  /** Commands that change something, in order. */
  readonly commands: string[];
  /** Why it refuses a command that begins like this. */
  readonly refuses: Map<string, string>;
  /** A command that begins like this is never answered. */
  hangsAt: string | undefined;
}

export async function startFastbootBoard(t: Pick<TestContext, "after">): Promise<FastbootBoard> {
  const board = {
    serial: "",
    partitions: new Map<string, Buffer>(),
    commands: [] as string[],
    refuses: new Map<string, string>(),
    hangsAt: undefined as string | undefined,
  };
  const variables: Readonly<Record<string, string>> = {
    product: "ridesx",
    version: "0.4",
    "max-download-size": "0x10000000",
  };
  const server = createServer((socket) => {
    socket.on("error", () => {});
    socket.write("FB01");
    let greeted = false;
    let received = Buffer.alloc(0);
    let downloading = 0;
    let download: Buffer[] = [];
    const say = (text: string) => {
      const header = Buffer.alloc(8);
      header.writeBigUInt64BE(BigInt(text.length));
      socket.write(Buffer.concat([header, Buffer.from(text)]));
    };
    const take = (message: Buffer) => {
      if (downloading > 0) {
        download.push(Buffer.from(message));
        downloading -= message.length;
        if (downloading === 0) say("OKAY");
        return;
      }
      const [verb = "", ...rest] = message.toString().split(":");
      const argument = rest.join(":");
      if (board.hangsAt !== undefined && message.toString().startsWith(board.hangsAt)) return;
      for (const [begin, why] of board.refuses) {
        if (message.toString().startsWith(begin)) return say(`FAIL${why}`);
      }
      if (verb !== "getvar" && verb !== "download") board.commands.push(message.toString());
      if (verb === "getvar") return say(argument in variables ? `OKAY${variables[argument]}` : "FAILunknown variable");
      if (verb === "download") {
        downloading = Number.parseInt(argument, 16);
        download = [];
        return say(`DATA${argument}`);
      }
      if (verb === "flash") board.partitions.set(argument, Buffer.concat(download));
      return say("OKAY");
    };
    socket.on("data", (chunk: Buffer) => {
      received = Buffer.concat([received, chunk]);
      if (!greeted) {
        if (received.length < 4) return;
        greeted = true;
        received = received.subarray(4);
      }
      while (received.length >= 8) {
        const length = Number(received.readBigUInt64BE());
        if (received.length < 8 + length) return;
        const message = received.subarray(8, 8 + length);
        received = received.subarray(8 + length);
        take(message);
      }
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => server.close());
  board.serial = `tcp:127.0.0.1:${(server.address() as { port: number }).port}`;
  return board;
}
