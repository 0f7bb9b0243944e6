/**
 * A device of ADB over TCP, as `adb connect` finds it: the handshake without keys, and `shell:`.
 * Source: AOSP, packages/modules/adb/docs/dev/protocol.md.
 */
import { once } from "node:events";
import { createServer, type AddressInfo, type Socket } from "node:net";
import type { TestContext } from "node:test";

export interface AdbDevice {
  readonly port: number;
  /** What `shell` answers by command; others answer with an empty output. */
  readonly answers: Map<string, string>;
  /** Every command that was run. */
  readonly commands: string[];
  /** Connections that are open now. */
  readonly connections: ReadonlySet<Socket>;
}

const code = (name: string) => Buffer.from(name).readUInt32LE();
const headBytes = 24;
const version = 0x01000001;
const maxPayload = 4096;
const banner = "device::ro.product.name=double;ro.product.model=Double;ro.product.device=double;features=cmd";

function message(name: string, first: number, second: number, payload: Buffer = Buffer.alloc(0)): Buffer {
  const head = Buffer.alloc(headBytes);
  const sum = payload.reduce((total, byte) => total + byte, 0);
  const words = [code(name), first, second, payload.length, sum, (code(name) ^ 0xffffffff) >>> 0];
  for (const [index, word] of words.entries()) head.writeUInt32LE(word, index * 4);
  return Buffer.concat([head, payload]);
}

/** @param silent takes connections and says nothing */
export async function startAdbDevice(
  t: Pick<TestContext, "after">,
  { silent = false, port = 0 }: { silent?: boolean; port?: number } = {},
): Promise<AdbDevice> {
  const answers = new Map<string, string>();
  const commands: string[] = [];
  const connections = new Set<Socket>();
  const server = createServer((socket) => {
    connections.add(socket);
    socket.once("close", () => connections.delete(socket));
    socket.on("error", () => {});
    if (silent) socket.resume();
    else serve(socket, answers, commands);
  });
  server.listen(port, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    server.close();
    for (const socket of connections) socket.destroy();
  });
  return { port: (server.address() as AddressInfo).port, answers, commands, connections };
}

function serve(socket: Socket, answers: ReadonlyMap<string, string>, commands: string[]): void {
  let received = Buffer.alloc(0);
  let streams = 0;
  socket.on("data", (chunk: Buffer) => {
    received = Buffer.concat([received, chunk]);
    while (received.length >= headBytes) {
      const end = headBytes + received.readUInt32LE(12);
      if (received.length < end) return;
      const name = received.toString("latin1", 0, 4);
      const theirs = received.readUInt32LE(4);
      const payload = received.subarray(headBytes, end);
      received = received.subarray(end);
      if (name === "CNXN") socket.write(message("CNXN", version, maxPayload, Buffer.from(banner)));
      if (name !== "OPEN") continue;
      const ours = (streams += 1);
      const service = payload.toString().replace(/\0$/, "");
      if (!service.startsWith("shell")) {
        socket.write(message("CLSE", 0, theirs));
        continue;
      }
      const command = service.replace(/^shell[^:]*:/, "");
      commands.push(command);
      socket.write(message("OKAY", ours, theirs));
      const answer = answers.get(command) ?? "";
      if (answer !== "") socket.write(message("WRTE", ours, theirs, Buffer.from(answer)));
      socket.write(message("CLSE", ours, theirs));
    }
  });
}
