import { once } from "node:events";
import { readFileSync } from "node:fs";
import { isIP } from "node:net";
import { Duplex } from "node:stream";
import { connect as connectTls, type SecureContextOptions } from "node:tls";
import { Agent, interceptors } from "undici";
import * as z from "zod";
import { defineDriver, type Finding } from "../../agent/driver/driver.ts";
import { AgentError, toAgentError } from "../../agent/driver/errors.ts";
import * as lax from "../../agent/driver/lax.ts";
import { dial } from "../../agent/stream/dial.ts";
import { anySignal } from "../../agent/sys/any-signal.ts";
import { video } from "./interface.ts";
import { pictureSize } from "./protocol.ts";
import { rewriteRequestHead } from "./request-head.ts";
import { get, requirePicture } from "./transport.ts";

/** Cameras send people to another page now and then, but not in circles. */
const mostRedirects = 3;

const offline = { online: false, width: null, height: null, fps: null };

const cameraUrl = z.string().superRefine((text, context) => {
  const problem = (message: string) => context.addIssue({ code: "custom", message });
  const [, scheme = "", host = ""] = /^([^:/?#]*):(?:\/\/)?([^/?#]*)/.exec(text) ?? [];
  if (!/^https?$/i.test(scheme)) problem(`unsupported scheme in stream url: ${scheme}`);
  else if (host.replace(/^.*@/, "") === "") problem(`missing host in stream url: ${maskUrl(text)}`);
  else if (!URL.canParse(text)) problem("not a URL");
});

export default defineDriver({
  types: ["jumpstarter_driver_video.driver.HttpVideo"],
  summary: "A camera that serves MJPEG or pictures over HTTP.",
  implements: video,
  config: z.strictObject({
    url: cameraUrl.describe("its MJPEG stream, http or https; user:password@ if it wants them"),
    snapshot_url: cameraUrl.nullish().describe("single pictures; default is the first one of the stream"),
    timeout: lax.number().pipe(z.number().positive().max(600)).prefault(10).describe("seconds for one picture"),
    tls_ca: z.string().min(1).nullish().describe("certificate (PEM) of its authority, or its own, for https"),
  }),
  async inspect({ url, timeout, tls_ca }): Promise<Finding[]> {
    const camera = locate(url);
    try {
      (await openConnection(camera, ca(tls_ca), AbortSignal.timeout(timeout * 2_000), timeout * 1_000)).destroy();
      return [{ ok: true, text: `${camera.name} takes connections` }];
    } catch (error) {
      const text = `${camera.name} cannot be reached: ${toAgentError(error).message}`;
      return [{ ok: false, text, hint: "check its address and its cable" }];
    }
  },
  open({ config: { url, snapshot_url, timeout, tls_ca } }) {
    const stream = locate(url);
    const picture = snapshot_url === null || snapshot_url === undefined ? stream : locate(snapshot_url);
    const timeoutMs = timeout * 1_000;

    const shoot = async (signal: AbortSignal): Promise<Buffer> => {
      const { name, url, credentials } = picture;
      const agent = new Agent({ connect: { timeout: timeoutMs, ...ca(tls_ca) } });
      const dispatcher = agent.compose(interceptors.redirect({ maxRedirections: mostRedirects }));
      try {
        return requirePicture(await get({ url, name, dispatcher, signal, timeoutMs, headers: credentials }), name);
      } finally {
        await agent.destroy();
      }
    };

    return {
      methods: {
        snapshot: async ({ signal }) => (await shoot(signal)).toString("base64"),
        state: async ({ signal, log }) => {
          try {
            const { width, height } = pictureSize(await shoot(signal)) ?? { width: null, height: null };
            return { online: true, width, height, fps: null };
          } catch (error) {
            signal.throwIfAborted();
            log.info(`offline: ${toAgentError(error).message}`);
            return offline;
          }
        },
        stream_path: () => stream.url.pathname + stream.url.search,
        // Clients say `Host: localhost` and know no password.
        connect: async ({ signal }) => {
          const socket = await openConnection(stream, ca(tls_ca), signal, timeoutMs);
          const head = rewriteRequestHead({ Host: stream.url.host, ...stream.credentials });
          head.pipe(socket);
          // May break between two readers; it stays in `errored`.
          return Duplex.from({ readable: socket, writable: head }).on("error", () => {});
        },
      },
    };
  },
});

interface Camera {
  /** Without user and password. */
  readonly url: URL;
  /** For texts: without what may be secret. */
  readonly name: string;
  /** As headers of a request; none if the URL has none. */
  readonly credentials: Readonly<Record<string, string>>;
}

function locate(text: string): Camera {
  const url = new URL(text);
  const secret = `${decode(url.username)}:${decode(url.password)}`;
  const credentials: Record<string, string> =
    secret === ":" ? {} : { Authorization: `Basic ${Buffer.from(secret).toString("base64")}` };
  url.username = "";
  url.password = "";
  url.hash = "";
  return { url, name: maskUrl(text), credentials };
}

/** A percent sign that escapes nothing means itself. */
function decode(text: string): string {
  return text.replace(/(%[0-9a-f]{2})+/gi, (escaped) => Buffer.from(escaped.replaceAll("%", ""), "hex").toString());
}

/** Cameras take passwords before the host and in the query alike. */
function maskUrl(url: string): string {
  return url
    .replace(/#.*$/s, "")
    .replace(/\?.*$/s, "?[REDACTED]")
    .replace(/\/\/[^/?#]*@/, "//");
}

/** Read each time: a camera that was reset has a new one. @throws AgentError E_CONFIG if it cannot be read */
function ca(path: string | null | undefined): SecureContextOptions {
  if (path === null || path === undefined) return {};
  try {
    return { ca: readFileSync(path) };
  } catch (error) {
    throw new AgentError("E_CONFIG", `tls_ca: ${toAgentError(error).message}`, { cause: error });
  }
}

async function openConnection(
  { url, name }: Camera,
  tls: SecureContextOptions,
  signal: AbortSignal,
  timeoutMs: number,
): Promise<Duplex> {
  const secure = url.protocol === "https:";
  const host = url.hostname.replace(/^\[(.*)\]$/, "$1");
  const socket = await dial({ host, port: Number(url.port || (secure ? 443 : 80)) }, name, signal, timeoutMs);
  if (!secure) return socket;
  const encrypted = connectTls({ ...tls, socket, host, servername: isIP(host) === 0 ? host : "" });
  encrypted.on("error", () => {});
  const deadline = AbortSignal.timeout(timeoutMs);
  try {
    await once(encrypted, "secureConnect", { signal: anySignal([signal, deadline]) });
    return encrypted;
  } catch (error) {
    encrypted.destroy();
    signal.throwIfAborted();
    if (deadline.aborted) throw new AgentError("E_TIMEOUT", `no TLS with ${name} within ${timeoutMs / 1000} s`);
    throw new AgentError("E_CONNECTION", `no TLS with ${name}: ${toAgentError(error).message}`, { cause: error });
  }
}
