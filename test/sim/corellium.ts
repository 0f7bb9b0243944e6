import { once } from "node:events";
import {
  createServer as createPlain,
  type IncomingMessage,
  type RequestListener,
  type ServerResponse,
} from "node:http";
import { createServer as createSecure } from "node:https";
import type { AddressInfo, Socket } from "node:net";
import { json } from "node:stream/consumers";
import type { TestContext } from "node:test";
import { WebSocketServer, type WebSocket } from "ws";
import type { ServerCertificate } from "./certificates.ts";

interface VirtualInstance {
  id: string;
  name: string;
  state: string;
  /** What it will be, or `gone`, after so many looks at the list. */
  next?: { state: string; looks: number } | undefined;
  readonly made?: unknown;
}

/** A double of Corellium's cloud, by the calls that exporters make: one project, one model, consoles that echo. */
export interface Corellium {
  /** For CORELLIUM_API_HOST. */
  readonly host: string;
  readonly token: string;
  readonly instances: Map<string, VirtualInstance>;
  /** `PUT v1/instances/i1/state {"state":"on"}` */
  readonly requests: string[];
  /** Looks at the list that a change of state takes. */
  slowness: number;
  /** Answers to requests that begin with these words, in place of its own. */
  readonly troubles: Map<string, (response: ServerResponse) => void>;
  /** In the path of console URLs. */
  readonly secret: string;
  readonly sockets: Set<WebSocket>;
  stop(): void;
}

const token = "t0ken-of-the-lab";
const secret = "s3cret-of-the-console";

export async function startCorellium(t: Pick<TestContext, "after">, tls?: ServerCertificate): Promise<Corellium> {
  const instances = new Map<string, VirtualInstance>();
  const requests: string[] = [];
  const troubles = new Map<string, (response: ServerResponse) => void>();
  const cloud = { slowness: 1 };
  let origin = "";

  const change = (instance: VirtualInstance, state: string) => (instance.next = { state, looks: cloud.slowness });
  /** Time passes by looking. */
  const look = () => {
    for (const instance of instances.values()) {
      if (instance.next === undefined || instance.next.looks-- > 0) continue;
      instance.state = instance.next.state;
      if (instance.state === "gone") instances.delete(instance.id);
      instance.next = undefined;
    }
    return [...instances.values()].map(({ id, name, state }) => ({ id, name, state, further: { keys: 1 } }));
  };

  const answer = (method: string, path: string, body: unknown): [status: number, content?: unknown] => {
    const [, id = "", rest = ""] = /^v1\/instances\/([^/?]+)(.*)$/.exec(path) ?? [];
    const instance = instances.get(id);
    if (path === "v1/projects") return [200, [{ id: "p1", name: "Default Project", quotas: {} }]];
    if (path === "v1/models") return [200, [{ model: "rd1ae", flavor: "flavor-1", name: "RD-1 AE", type: "iot" }]];
    if (path === "v1/instances" && method === "GET") return [200, look()];
    if (path === "v1/instances" && method === "POST") {
      const made = {
        id: `i${instances.size + 1}`,
        name: (body as { name: string }).name,
        state: "creating",
        made: body,
      };
      instances.set(made.id, made);
      change(made, "on");
      return [200, { id: made.id, state: made.state, further: "key" }];
    }
    if (instance === undefined) return [404, { error: "No instance associated with this value", errorID: "UserError" }];
    if (method === "PUT" && rest === "/state") {
      change(instance, (body as { state: string }).state);
      return [204];
    }
    if (method === "DELETE") {
      change(instance, "gone");
      return [204];
    }
    if (rest === "")
      return [200, { ...instance, consoles: [{ id: "port-uart-port-0", name: "Primary Compute Non-Secure" }] }];
    if (rest === "/console?type=uart-0") return [200, { url: `${origin.replace("http", "ws")}/console/${secret}` }];
    return [404, { error: "no such page" }];
  };

  const serve = async (request: IncomingMessage, response: ServerResponse) => {
    const path = (request.url ?? "").replace(/^\/api\//, "");
    const body = request.method === "POST" || request.method === "PUT" ? await json(request) : undefined;
    const told = `${request.method} ${path}${body === undefined ? "" : ` ${JSON.stringify(body)}`}`;
    requests.push(told);
    const trouble = [...troubles].find(([words]) => told.startsWith(words))?.[1];
    if (trouble !== undefined) return trouble(response);
    if (request.headers.authorization !== `Bearer ${token}`) {
      return void response.writeHead(403).end(JSON.stringify({ error: `Invalid or missing authorization token` }));
    }
    const [status, content] = answer(request.method ?? "", path, body);
    response.writeHead(status, { "content-type": "application/json" });
    response.end(content === undefined ? undefined : JSON.stringify(content));
  };
  const listener: RequestListener = (request, response) => void serve(request, response);
  const server =
    tls === undefined ? createPlain(listener) : createSecure({ cert: tls.certificate, key: tls.key }, listener);

  const consoles = new WebSocketServer({ noServer: true });
  const sockets = new Set<WebSocket>();
  const connections = new Set<Socket>();
  server.on("connection", (socket: Socket) => {
    connections.add(socket);
    socket.on("close", () => connections.delete(socket)).on("error", () => {});
  });
  server.on("upgrade", (request: IncomingMessage, socket: Socket, head: Buffer) => {
    if (request.url !== `/console/${secret}`) return void socket.end("HTTP/1.1 403 Forbidden\r\n\r\n");
    consoles.handleUpgrade(request, socket, head, (opened) => {
      sockets.add(opened);
      opened.on("close", () => sockets.delete(opened));
      opened.send(Buffer.from("login: "));
      opened.on("message", (data: Buffer, isBinary) => opened.send(data, { binary: isBinary }));
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  origin = `${tls === undefined ? "http" : "https"}://127.0.0.1:${port}`;
  const stop = () => {
    for (const socket of connections) socket.destroy();
    server.close();
    consoles.close();
  };
  t.after(stop);
  const host = tls === undefined ? origin : `127.0.0.1:${port}`;
  return Object.assign(cloud, { host, token, instances, requests, troubles, secret, sockets, stop });
}
