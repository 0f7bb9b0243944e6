import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { chmod } from "node:fs/promises";
import { createServer, type AddressInfo, type ListenOptions, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { addressedNetwork } from "../../../../net/sockets/interface.ts";
import { AgentError, toAgentError } from "../../../driver/errors.ts";
import { command, type Commands, type Run } from "../command.ts";

export const commands: Commands = {
  address: command({
    help: "Show where the exporter connects to, for clients that can reach it directly",
    options: {
      host: { kind: "flag", help: "Only the host" },
      port: { kind: "flag", help: "Only the port" },
    },
    run: async ({ node, signal, print }, { host, port }) => {
      const address = await readAddress(() => node.as(addressedNetwork, { signal }).address());
      const [, hostPart = "", portPart = ""] = /^(.*?)(?::(\d+))?$/.exec(withoutScheme(address)) ?? [];
      if (host === port) print(withoutScheme(address));
      else print(host ? hostPart.replace(/^\[(.*)\]$/, "$1") : portPart);
    },
  }),
  "forward-tcp": command({
    help: "Forward a local TCP port to the remote network; PORT 0 takes a free one",
    args: { port: { kind: "integer", help: "TCP port to listen on" } },
    options: { address: { kind: "text", default: "localhost", help: "Local address to listen on" } },
    run: async (run, { port, address }) => {
      if (port < 0 || port > 65_535) throw new AgentError("E_USAGE", `PORT takes 0 to 65535, not ${port}`);
      await forward(run, { host: address, port }, (server) => {
        const bound = server.address() as AddressInfo;
        run.print(`${bound.family === "IPv6" ? `[${bound.address}]` : bound.address}:${bound.port}`);
      });
    },
  }),
  "forward-unix": command({
    help: "Forward a local Unix socket to the remote network",
    args: { path: { optional: true, help: "Path of the socket, by default a random one under $XDG_RUNTIME_DIR" } },
    run: async (run, { path }) => {
      const random = `jumpstarter-forward-${randomBytes(8).toString("hex")}.sock`;
      const socketPath = path ?? join(process.env["XDG_RUNTIME_DIR"] ?? tmpdir(), random);
      await forward(run, { path: socketPath }, async () => {
        await chmod(socketPath, 0o600);
        run.print(socketPath);
      });
    },
  }),
};

/** Serves until Ctrl-C: every local connection becomes a stream of its own. */
async function forward(run: Run, at: ListenOptions, ready: (server: Server) => unknown): Promise<void> {
  const sockets = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
    connect(run, socket).catch((error: unknown) => {
      socket.destroy();
      if (!run.signal.aborted) run.note(`connection closed: ${toAgentError(error).message}`);
    });
  });
  server.listen(at);
  await once(server, "listening");
  try {
    await ready(server);
    if (!run.signal.aborted) await once(run.signal, "abort");
  } finally {
    server.close();
    for (const socket of sockets) socket.destroy();
  }
}

async function connect({ node, signal }: Run, socket: Socket): Promise<void> {
  const stream = await node.stream("connect", { signal });
  try {
    await Promise.all([pipeline(socket, stream), pipeline(stream, socket)]);
  } finally {
    stream.destroy();
    socket.destroy();
  }
}

async function readAddress(read: () => Promise<string>): Promise<string> {
  try {
    return await read();
  } catch (error) {
    const { code, message } = toAgentError(error);
    if (code === "E_NO_METHOD") {
      throw new AgentError(
        "E_UNSUPPORTED",
        "This exporter does not support direct connection yet, update exporter to 0.7.1 or later",
      );
    }
    throw new AgentError(code, message, { cause: error });
  }
}

/** `host:port` of an address or URL. */
function withoutScheme(address: string): string {
  return address.replace(/^[a-z]+:\/\//i, "").replace(/\/.*$/, "");
}
