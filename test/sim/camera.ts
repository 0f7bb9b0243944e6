import { once } from "node:events";
import {
  createServer as createPlain,
  type IncomingMessage,
  type RequestListener,
  type ServerResponse,
} from "node:http";
import { createServer as createSecure } from "node:https";
import type { AddressInfo, Socket } from "node:net";
import type { TestContext } from "node:test";
import type { TLSSocket } from "node:tls";
import type { ServerCertificate } from "./certificates.ts";
import { leftBright } from "./pictures.ts";

type Handler = (request: IncomingMessage, response: ServerResponse) => void;

export interface CameraOptions {
  /** Serves https. */
  readonly tls?: ServerCertificate;
  /** `user:password`; who does not say it gets 401. */
  readonly password?: string;
  /** Other names get 404, as at a proxy with many cameras. */
  readonly virtualHost?: string;
}

/** A double of a network camera: MJPEG at /stream, in chunks or (with ?plain) until the connection ends; pictures at /snapshot. */
export interface Camera {
  /** `http://127.0.0.1:PORT` */
  readonly origin: string;
  readonly port: number;
  /** `GET /stream`, with what was not forbidden. */
  readonly requests: string[];
  picture: Buffer;
  /** Names that clients of https have asked for; empty for an address. */
  readonly serverNames: string[];
  /** In place of what it does itself. */
  trouble: Handler | undefined;
  /** Connections that are open now. */
  readonly connections: Set<Socket>;
  /** Ends it as if its cable was pulled. */
  stop(): void;
}

const boundary = "frameborder";
const frameEveryMs = 20;

export async function startCamera(
  t: Pick<TestContext, "after">,
  { tls, password, virtualHost }: CameraOptions = {},
): Promise<Camera> {
  const requests: string[] = [];
  const serverNames: string[] = [];
  const connections = new Set<Socket>();
  const device = { picture: leftBright, trouble: undefined as Handler | undefined };

  const streams: Handler = (request, response) => {
    const headers = { "content-type": `multipart/x-mixed-replace;boundary=${boundary}` };
    if (request.url?.endsWith("plain")) response.useChunkedEncodingByDefault = false;
    response.writeHead(200, headers).flushHeaders();
    const send = () => {
      response.write(`--${boundary}\r\nContent-Type: image/jpeg\r\nContent-Length: ${device.picture.length}\r\n\r\n`);
      response.write(Buffer.concat([device.picture, Buffer.from("\r\n")]));
    };
    send();
    const timer = setInterval(send, frameEveryMs);
    response.on("close", () => clearInterval(timer));
  };

  const serve: RequestListener = (request, response) => {
    const { host = "", authorization = "" } = request.headers;
    if (virtualHost !== undefined && host !== virtualHost) return void response.writeHead(404).end("who?");
    const wanted = password === undefined ? "" : `Basic ${Buffer.from(password).toString("base64")}`;
    if (password !== undefined && authorization !== wanted) return void response.writeHead(401).end("no");
    requests.push(`${request.method} ${request.url}`);
    if (device.trouble !== undefined) return device.trouble(request, response);
    if (request.url?.startsWith("/stream")) return streams(request, response);
    if (request.url !== "/snapshot") return void response.writeHead(404).end("no such page");
    response.writeHead(200, { "content-type": "image/jpeg" }).end(device.picture);
  };

  const server = tls === undefined ? createPlain(serve) : createSecure({ cert: tls.certificate, key: tls.key }, serve);
  server.on("secureConnection", ({ servername }: TLSSocket) => serverNames.push(servername || ""));
  server.on("connection", (socket: Socket) => {
    connections.add(socket);
    socket.on("close", () => connections.delete(socket)).on("error", () => {});
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const stop = () => {
    server.closeAllConnections();
    for (const socket of connections) socket.destroy();
    server.close();
  };
  t.after(stop);
  const { port } = server.address() as AddressInfo;
  const origin = `${tls === undefined ? "http" : "https"}://127.0.0.1:${port}`;
  return Object.assign(device, { origin, port, requests, serverNames, connections, stop });
}
