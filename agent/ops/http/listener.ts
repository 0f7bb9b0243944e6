/** What a host's operator reads of an agent, over HTTP: metrics, health, and a page. Nothing here changes anything. */
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { AddressInfo } from "node:net";
import { hostname } from "node:os";
import { toAgentError } from "../../driver/errors.ts";
import type { Logger } from "../../driver/log.ts";
import type { RunningTransfer, ShownConsole } from "../../driver/shown.ts";
import { anySignal } from "../../sys/any-signal.ts";
import type { TlsFiles } from "../../sys/tls-files.ts";
import { transferStatus, type ExporterStatus } from "../exporter-status.ts";
import { FlashLog } from "../flash-log.ts";
import type { AgentMetrics } from "../metrics/agent-metrics.ts";
import type { ReceiptStore } from "../receipts/store.ts";
import { createAccess } from "./access.ts";
import { json, refusal, send, standardHeaders, type Answer } from "./answer.ts";
import { followConsole, readConsole, searchConsole, type Readable } from "./consoles.ts";
import { auditTail, pageFile, receipt } from "./documents.ts";
import { EventStream } from "./event-stream.ts";
import { LiveStatus, type Overview } from "./live-status.ts";

/** What is looked at. */
export interface Operated {
  readonly version: string;
  exporters(): readonly ExporterStatus[];
  /** A console of a driver that is open. */
  console(exporter: string, driver: string): ShownConsole | undefined;
  /** Transfers of no exporter. */
  transfers(): readonly RunningTransfer[];
  readonly metrics: AgentMetrics;
  /** Undefined where nothing is flashed. */
  readonly receipts: ReceiptStore | undefined;
  /** Path of the audit log, if one is written. */
  readonly audit: string | undefined;
}

export interface OperationsOptions {
  readonly host: string;
  /** 0 lets the system choose. */
  readonly port: number;
  /** Without one, everybody who reaches it may read. */
  readonly token: string | undefined;
  /** Names by which it is reached, beside addresses and the host's own. */
  readonly names: readonly string[];
  /** Undefined: plain HTTP. */
  readonly tls: TlsFiles | undefined;
  readonly log: Logger;
  /** Times of the server's limits, for tests. */
  readonly headersMs?: number;
}

export interface OperationsListener {
  readonly port: number;
  close(): Promise<void>;
}

/** Prometheus, a few browsers with two streams each, and probes. */
const mostConnections = 64;
const mostStreams = 24;
const mostSearches = 2;
const searchMs = 20_000;
/** A reader of the page that takes nothing. */
const silenceMs = 60_000;
const prometheusText = "text/plain; version=0.0.4; charset=utf-8";

/** @throws AgentError E_IO if the address cannot be listened on, E_CONFIG if the certificate does not serve */
export async function serveOperations(operated: Operated, options: OperationsOptions): Promise<OperationsListener> {
  const { host, token, names, tls, log, headersMs = 5_000 } = options;
  const { metrics, receipts } = operated;
  const access = createAccess(token, [...names, host], { isSecure: tls !== undefined });
  const flashLog = receipts && new FlashLog(receipts, metrics.flashed);
  // What is there already is not counted, so it is looked at before the first scrape.
  void flashLog?.look();
  metrics.registry.collect(async () => void (await flashLog?.look()));
  const startedAt = new Date(Date.now() - process.uptime() * 1_000).toISOString();
  const overview = async (): Promise<Overview> => ({
    agent: { host: hostname(), version: operated.version, startedAt },
    exporters: operated.exporters(),
    transfers: operated.transfers().map(transferStatus),
    flashes: (await flashLog?.look()) ?? [],
  });
  const live = new LiveStatus(overview);
  let streams = 0;
  let searches = 0;

  function stream(response: ServerResponse): EventStream {
    streams += 1;
    const made = new EventStream(response);
    response.once("close", () => (streams -= 1));
    return made;
  }

  /** @returns undefined when the answer is a stream that has begun */
  async function route(request: IncomingMessage, response: ServerResponse): Promise<Answer | undefined> {
    const { pathname, searchParams } = new URL(request.url ?? "/", "http://host");
    if (pathname === "/healthz") return json({ ok: true, uptime_seconds: Math.round(process.uptime()) });
    if (pathname === "/") return await pageFile("index.html");
    // What browsers ask for where no page says otherwise.
    if (pathname === "/favicon.ico") return await pageFile("icon.svg");
    if (pathname.startsWith("/page/")) return await pageFile(pathname.slice("/page/".length));
    const allowed = access.isAllowed(request);
    // A probe needs to know whether, not who.
    if (pathname === "/readyz") return readiness(operated.exporters(), { named: allowed });
    if (!allowed) return refusal(401, "a token is needed", { "WWW-Authenticate": 'Bearer realm="jumpstarter-agent"' });
    switch (pathname) {
      case "/session":
        return { ...json({ ok: true }), headers: { "Set-Cookie": access.cookie() } };
      case "/metrics":
        return { type: prometheusText, body: await metrics.registry.text() };
      case "/status":
        return json(await overview());
      case "/audit":
        return await auditTail(operated.audit);
      case "/events":
      case "/console": {
        const console = pathname === "/events" ? undefined : consoleOf(searchParams);
        if (console !== undefined && !("read" in console)) return console;
        if (streams >= mostStreams) return refusal(503, "too many readers", { "Retry-After": "5" });
        if (request.method === "HEAD") return { type: "text/event-stream", body: "" };
        const to = stream(response);
        if (console === undefined) await live.add(to);
        else await followConsole(console, to, numberOf(searchParams, "lines", 20_000) ?? 500);
        return undefined;
      }
      case "/console/read":
      case "/console/search": {
        const console = consoleOf(searchParams);
        if (!("read" in console)) return console;
        return await past(console, pathname === "/console/read" ? "read" : "search", searchParams, response);
      }
    }
    const name = /^\/receipts\/([^/]+)$/.exec(pathname)?.[1];
    if (name !== undefined && receipts !== undefined) return await receipt(receipts, name);
    return refusal(404, "there is no such page");
  }

  function consoleOf(words: URLSearchParams): Readable | Answer {
    const console = operated.console(words.get("exporter") ?? "", words.get("driver") ?? "");
    if (console === undefined) return refusal(404, "there is no such console, or its driver is offline");
    const { read } = console;
    if (read === undefined) return refusal(404, `nothing is recorded: ${console.state}`);
    return { read };
  }

  async function past(
    console: Readable,
    what: "read" | "search",
    words: URLSearchParams,
    response: ServerResponse,
  ): Promise<Answer> {
    const over = new AbortController();
    response.once("close", () => over.abort());
    const signal = anySignal([over.signal, AbortSignal.timeout(searchMs)]);
    if (what === "read") return json(await readConsole(console, numberOf(words, "from", 1e15) ?? 0, signal));
    const text = words.get("text") ?? "";
    if (text === "" || text.length > 200) return refusal(400, "`text` is what to search for, up to 200 characters");
    if (searches >= mostSearches) return refusal(503, "others search already", { "Retry-After": "1" });
    searches += 1;
    try {
      return json(await searchConsole(console, text, signal));
    } finally {
      searches -= 1;
    }
  }

  async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    for (const [name, value] of Object.entries(standardHeaders)) response.setHeader(name, value);
    const head = request.method === "HEAD";
    try {
      // What a body would say is not heard.
      if (hasBody(request)) response.setHeader("Connection", "close");
      if (!access.isOurName(request)) {
        return send(response, refusal(421, "this host is not known by that name: --operations-name NAME"), head);
      }
      if (request.method !== "GET" && !head) {
        return send(response, refusal(405, "nothing can be changed here", { Allow: "GET, HEAD" }), head);
      }
      const answer = await route(request, response);
      if (answer !== undefined) send(response, answer, head);
    } catch (error) {
      if (response.destroyed) return;
      log.warn(`${request.method} of the operations listener: ${toAgentError(error).message}`);
      if (response.headersSent) response.destroy();
      else send(response, refusal(500, "this cannot be told now; the log says why"), head);
    }
  }

  const limits = {
    headersTimeout: headersMs,
    requestTimeout: 2 * headersMs,
    connectionsCheckingInterval: Math.min(5_000, headersMs),
    keepAliveTimeout: 5_000,
    maxHeaderSize: 8 * 1024,
    noDelay: true,
  };
  const listen = (request: IncomingMessage, response: ServerResponse): void => void serve(request, response);
  const minVersion = "TLSv1.2";
  await tls?.load();
  const server =
    tls === undefined
      ? createServer(limits, listen)
      : createTlsServer({ ...limits, ...tls.current, minVersion, handshakeTimeout: headersMs }, listen);
  server.maxConnections = mostConnections;
  server.maxRequestsPerSocket = 1_000;
  server.timeout = silenceMs;
  server.listen({ host, port: options.port });
  await once(server, "listening").catch((error: unknown) => {
    throw toAgentError(error);
  });
  const forget = tls?.follow(
    (current) => "setSecureContext" in server && server.setSecureContext({ ...current, minVersion }),
  );
  server.on("error", (error) => log.warn(`the operations listener: ${error.message}`));
  return {
    port: (server.address() as AddressInfo).port,
    async close() {
      forget?.();
      const closed = once(server, "close");
      server.close();
      server.closeAllConnections();
      await closed;
      metrics.close();
    },
  };
}

/** Ready is who serves: its controller is heard, or it needs none. */
function readiness(exporters: readonly ExporterStatus[], { named }: { named: boolean }): Answer {
  const missing = exporters.filter(({ online }) => !online);
  const ready = missing.length === 0;
  const who = missing.map(({ exporter, state, registered }) => ({ exporter, state, registered }));
  return json({ ready, ...(named ? { exporters: exporters.length, missing: who } : {}) }, ready ? 200 : 503);
}

function numberOf(words: URLSearchParams, name: string, most: number): number | undefined {
  const text = words.get(name) ?? "";
  return /^\d{1,15}$/.test(text) ? Math.min(Number(text), most) : undefined;
}

function hasBody({ headers }: IncomingMessage): boolean {
  return headers["transfer-encoding"] !== undefined || Number(headers["content-length"] ?? 0) > 0;
}
