/** Cuttlefish's host orchestrator as its REST interface shows it: devices, operations, and its troubles. A double: no Android runs. */
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { TestContext } from "node:test";

export interface Orchestrator {
  readonly port: number;
  /** State of each device by `GROUP/NAME`. */
  readonly devices: Map<string, string>;
  /** `METHOD PATH BODY` of each request. */
  readonly requests: string[];
  /** Answers before the right ones: HTTP status and body; `hang` says nothing. */
  readonly troubles: (readonly [number, string] | "hang")[];
}

export async function startOrchestrator(t: Pick<TestContext, "after">): Promise<Orchestrator> {
  const devices = new Map<string, string>();
  const requests: string[] = [];
  const troubles: Orchestrator["troubles"] = [];
  const results = new Map<string, unknown>();

  const answer = (request: IncomingMessage, body: string, response: ServerResponse) => {
    const { method = "", url = "" } = request;
    const say = (status: number, value: unknown) => response.writeHead(status).end(JSON.stringify(value));
    /** What the operation does is done at once; its result is what waiting for it brings. */
    const operation = (result: unknown) => {
      const name = `op-${results.size + 1}`;
      results.set(name, result);
      say(200, { name, done: false });
    };
    const [, first = "", group = "", name = "", action = ""] = url.split("/");
    const device = `${group}/${name}`;
    if (url === "/_debug/statusz") return response.end("OK");
    if (url === "/operations") return say(200, { operations: [] });
    if (first === "operations") return say(200, results.get(group));
    if (url === "/reset") return (devices.clear(), operation({}));
    if (url === "/cvds" && method === "GET") {
      return say(200, { cvds: [...devices].map(([name, status]) => ({ name, status })) });
    }
    if (url === "/cvds" && method === "POST") {
      const { env_config } = JSON.parse(body) as { env_config: { name?: string } };
      devices.set(env_config.name ?? "cvd/1", "Running");
      return operation({ cvds: [{ name: env_config.name ?? "cvd/1" }] });
    }
    if (first !== "cvds" || !devices.has(device)) return say(404, { error: "Not found", details: url });
    if (method === "DELETE") return (devices.delete(device), operation({}));
    if (method === "GET") return say(200, { name: device, status: devices.get(device) });
    devices.set(device, action === ":stop" ? "Stopped" : "Running");
    return operation({ name: device, done: action });
  };

  const server = createServer((request, response) => {
    let body = "";
    request.setEncoding("utf8").on("data", (chunk: string) => (body += chunk));
    request.once("end", () => {
      requests.push(`${request.method} ${request.url} ${body}`.trim());
      const trouble = troubles.shift();
      if (trouble === "hang") return;
      if (trouble === undefined) answer(request, body, response);
      else response.writeHead(trouble[0]).end(trouble[1]);
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    server.close();
    server.closeAllConnections();
  });
  return { port: (server.address() as AddressInfo).port, devices, requests, troubles };
}
