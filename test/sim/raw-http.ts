import { once } from "node:events";
import { createServer, type Server, type Socket } from "node:net";
import { createServer as createTlsServer } from "node:tls";
import type { TestContext } from "node:test";

export interface RawRequest {
  /** `POST /on?x=1`. */
  readonly line: string;
  readonly headers: ReadonlyMap<string, string>;
  /** Names as they came, in order. */
  readonly names: readonly string[];
  readonly body: string;
}

export interface RawHttp {
  readonly port: number;
  readonly requests: RawRequest[];
  readonly sockets: ReadonlySet<Socket>;
}

/** What a device answers: a whole response, or what it does to the connection. */
type Device = (request: RawRequest, socket: Socket) => string | undefined;

/** A device with a web server of its own making: every byte of a request is seen, and any answer can be given. */
export async function rawHttp(
  t: Pick<TestContext, "after">,
  device: Device,
  tls?: { certificate: string; key: string },
): Promise<RawHttp> {
  const requests: RawRequest[] = [];
  const sockets = new Set<Socket>();
  const serve = (socket: Socket) => {
    sockets.add(socket);
    socket.on("error", () => {}).on("close", () => sockets.delete(socket));
    let text = "";
    socket.on("data", (chunk: Buffer) => {
      text += chunk.toString("latin1");
      const [head, rest] = text.split("\r\n\r\n", 2) as [string, string | undefined];
      if (rest === undefined) return;
      const [line = "", ...fields] = head.split("\r\n");
      const pairs = fields.map(
        (field) => [field.slice(0, field.indexOf(":")), field.replace(/^[^:]*:\s*/, "")] as const,
      );
      const headers = new Map(pairs.map(([name, value]) => [name.toLowerCase(), value]));
      if (rest.length < Number(headers.get("content-length") ?? 0)) return;
      text = "";
      const request = {
        line: line.replace(/ HTTP\/1\.1$/, ""),
        headers,
        names: pairs.map(([name]) => name),
        body: rest,
      };
      requests.push(request);
      const answer = device(request, socket);
      if (answer !== undefined) socket.end(answer);
    });
  };
  const server: Server =
    tls === undefined ? createServer(serve) : createTlsServer({ cert: tls.certificate, key: tls.key }, serve);
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return { port: (server.address() as { port: number }).port, requests, sockets };
}

/** A whole response. */
export function response(status: number | string, body = "", headers: Record<string, string> = {}): string {
  const fields = Object.entries({ "Content-Length": String(Buffer.byteLength(body)), ...headers });
  return `HTTP/1.1 ${status}\r\n${fields.map(([name, value]) => `${name}: ${value}\r\n`).join("")}\r\n${body}`;
}
