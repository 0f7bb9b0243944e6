import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import type { TestContext } from "node:test";

/** What happens to the next request to a path; asked in order. */
type Trouble = "reset" | "error 500" | "silence";

/** An EnerGenie EG-PMS2-LAN: one session that belongs to an address, and pages with status 200 for everything. */
export interface Energenie {
  /** `127.0.0.1:PORT` */
  readonly host: string;
  readonly sockets: boolean[];
  /** Every request so far: `POST /login.html pw=1`. */
  readonly requests: string[];
  /** Address that is logged in. */
  session: string | undefined;
  /** Most requests that were ever under way at once. */
  readonly atOnce: number;
  /** Sockets whose relay is stuck. */
  readonly stuck: Set<number>;
  /** What the next requests meet. */
  readonly troubles: Trouble[];
  /** Ends it as if its cable was pulled. */
  stop(): void;
}

export async function startEnergenie(t: Pick<TestContext, "after">, password = "1"): Promise<Energenie> {
  const sockets = [false, false, false, false];
  const requests: string[] = [];
  const stuck = new Set<number>();
  const troubles: Trouble[] = [];
  let underWay = 0;
  const device = { session: undefined as string | undefined, atOnce: 0 };

  const loginPage = `<html><body><form action="login.html" method="post"><input type="password" name="pw"></form></body></html>`;
  const mainPage = () =>
    `<html><head><script>var ctl = 1;\nvar sockstates = [${sockets.map(Number).join(",")}];\n</script></head>` +
    `<body><a href="login.html">Log Out</a></body></html>`;
  const busyPage = `<html><body>EnerGenie Power Manager is already in use.</body></html>`;

  const answer = (method: string, url: string, body: string, address: string): string => {
    const form = new URLSearchParams(body);
    if (url === "/login.html" && method === "POST") {
      if (device.session !== undefined && device.session !== address) return busyPage;
      if (form.get("pw") !== password) return loginPage;
      device.session = address;
      return mainPage();
    }
    if (url === "/login.html") {
      if (device.session === address) device.session = undefined;
      return loginPage;
    }
    if (device.session !== address) return loginPage;
    for (let slot = 1; slot <= sockets.length; slot += 1) {
      const value = form.get(`cte${slot}`);
      if (value !== null && !stuck.has(slot)) sockets[slot - 1] = value === "1";
    }
    return mainPage();
  };

  const serve = async (request: IncomingMessage, response: ServerResponse) => {
    const body = await text(request);
    requests.push(`${request.method} ${request.url}${body === "" ? "" : ` ${body}`}`);
    underWay += 1;
    device.atOnce = Math.max(device.atOnce, underWay);
    response.on("close", () => (underWay -= 1));
    const trouble = troubles.shift();
    if (trouble === "silence") return;
    if (trouble === "reset") return void request.socket.resetAndDestroy();
    if (trouble === "error 500") return void response.writeHead(500).end("oops");
    const page = answer(request.method ?? "", request.url ?? "", body, request.socket.remoteAddress ?? "");
    // It is slow: two that talk to it at once would be seen.
    setTimeout(() => response.writeHead(200, { "content-type": "text/html" }).end(page), 5);
  };

  const server = createServer((request, response) => void serve(request, response)).listen(0, "127.0.0.1");
  await once(server, "listening");
  const stop = () => {
    server.closeAllConnections();
    server.close();
  };
  t.after(stop);
  return Object.assign(device, {
    host: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    sockets,
    requests,
    stuck,
    troubles,
    stop,
  });
}
