import * as z from "zod";
import { AgentError, describeZodError } from "../driver/errors.ts";
import { invokeStream } from "../driver/invoke.ts";
import type { LiveDriver } from "../driver/live-driver.ts";
import { supportsEncoding } from "../stream/codecs.ts";
import type { RouterStream } from "../stream/router-stream.ts";
import { serveBridged } from "./bridged.ts";
import { admit, type Service } from "./exporter-service.ts";
import { streamOfRpc } from "./frame-carrier.ts";
import { joinStreams } from "./join-streams.ts";
import { resourceBegins, streamBegins } from "./observed.ts";
import type { RpcCall } from "./rpc-call.ts";
import type { RpcMethod } from "./rpc-server.ts";
import { contentEncodings } from "../driver/resource.ts";

const streamRequest = z.discriminatedUnion("kind", [
  z.object({ kind: z.literal("driver"), uuid: z.string(), method: z.string().default("connect") }),
  z.object({
    kind: z.literal("resource"),
    uuid: z.string(),
    x_jmp_content_encoding: z.string().nullish().default(null),
  }),
]);

/** jumpstarter.v1.RouterService as a session serves it: streams of drivers, and resources lent to calls. */
export function routerService(service: Service): Map<string, RpcMethod> {
  const handle = async (call: RpcCall) => {
    const request = parseRequest(call.headers["request"]);
    const release = service.streams.enter();
    try {
      if (request.kind === "driver") await serveDriver(service, call, request.uuid, request.method);
      else await serveResource(service, call, request.uuid, request.x_jmp_content_encoding);
    } finally {
      release();
    }
  };
  return new Map<string, RpcMethod>([["/jumpstarter.v1.RouterService/Stream", { kind: "bidi", handle }]]);
}

function parseRequest(header: string | string[] | undefined): z.output<typeof streamRequest> {
  if (typeof header !== "string") throw new AgentError("E_FAILED", "metadata `request` is missing");
  let json: unknown;
  try {
    json = JSON.parse(header);
  } catch (error) {
    throw new AgentError("E_FAILED", "metadata `request` is not JSON", { cause: error });
  }
  const parsed = streamRequest.safeParse(json);
  if (parsed.success) return parsed.data;
  throw new AgentError("E_FAILED", `metadata \`request\` is not valid: ${describeZodError(parsed.error)}`);
}

async function serveDriver(service: Service, rpc: RpcCall, uuid: string, method: string): Promise<void> {
  const driver = admit(service, uuid);
  if (driver.bridge !== undefined) {
    await serveBridged(service, rpc, driver, driver.bridge, { kind: "driver", uuid, method });
    return;
  }
  const { call, done } = service.session.exporter.beginCall(driver, rpc);
  const ended = streamBegins(service, driver, method);
  let client: RouterStream | undefined;
  try {
    const opened = await invokeStream(driver, method, call);
    rpc.sendMetadata();
    client = streamOfRpc(rpc.stream, { bytes: !opened.readableObjectMode });
    await joinStreams(client, opened, { lingerMs: halfCloses(driver, method) ? undefined : service.lingerMs });
    ended(client);
  } catch (error) {
    ended(client, error);
    throw error;
  } finally {
    done();
  }
}

function halfCloses(driver: LiveDriver, method: string): boolean {
  const declared = driver.planned.driver.implements.methods[method];
  return declared?.kind !== "stream" || declared.halfCloses;
}

/** The Python client spends its time per frame: it takes a dump in 512 KiB frames 1.6 times as fast as in the usual 64. */
const resourceFrameBytes = 512 * 1024;

async function serveResource(service: Service, rpc: RpcCall, uuid: string, requested: string | null): Promise<void> {
  const driver = admit(service, uuid);
  if (driver.bridge !== undefined) {
    const request = { kind: "resource", uuid, x_jmp_content_encoding: requested } as const;
    await serveBridged(service, rpc, driver, driver.bridge, request);
    return;
  }
  // Asked for an encoding we lack, we say so by leaving out the key, and the client converts by itself.
  const encoding = contentEncodings.find((known) => known === requested && supportsEncoding(known)) ?? null;
  const stream = streamOfRpc(rpc.stream, { bytes: true, largestFrameBytes: resourceFrameBytes });
  const closed = new Promise<void>((resolve) => stream.once("close", resolve));
  const ended = resourceBegins(service, stream);
  const handle = service.session.exporter.resources.lend(stream, encoding);
  rpc.sendMetadata({
    resource: JSON.stringify(handle),
    ...(requested !== null && encoding === null ? {} : { x_jmp_accept_encoding: encoding ?? "" }),
  });
  await closed;
  ended(stream.errored ?? undefined);
  if (stream.errored) throw stream.errored;
}
