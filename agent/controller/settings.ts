import { X509Certificate } from "node:crypto";
import { parseEndpoint, type TcpAddress } from "../client/address.ts";
import type { ChannelOptions } from "../client/channel.ts";
import type { ExporterConfig } from "../config/schema.ts";
import { AgentError, toAgentError } from "../driver/errors.ts";

/** What it takes to speak with a controller and its routers. Plain data: two are equal if all they say is. */
export interface ControllerSettings {
  readonly endpoint: TcpAddress;
  readonly namespace: string;
  readonly name: string;
  /** A secret. */
  readonly token: string;
  /** How the controller is reached. */
  readonly channel: ChannelOptions;
  /** How routers are reached. */
  readonly routerChannel: ChannelOptions;
  /** `tls.insecure`, or the environment's word for it. */
  readonly insecure: boolean;
  /** What was found odd in the configuration, a line each. */
  readonly warnings: readonly string[];
}

/** Half the time after which a controller takes a silent exporter for lost is 30 s. A dead one must be left before. */
const controllerKeepaliveTimeoutMs = 20_000;

/** Tunnels survive a router that stands still for a while: their clients notice nothing but a pause. */
const routerKeepaliveTimeoutMs = 180_000;

const keepaliveMs = 20_000;

/** Each step. An exporter has to be back within 5 s, also where its last attempt was lost on the way: time for another. */
const connectTimeoutMs = 4_000;

/** Pings that come faster than this make servers end the connection. */
const fastestPingMs = 1_000;

/** gRPC's word for never; timers take no more either. */
const never = 2 ** 31 - 1;

/** @throws AgentError E_CONFIG for a configuration that no controller can be reached with. */
export function controllerSettings(config: ExporterConfig, env: NodeJS.ProcessEnv): ControllerSettings {
  const { endpoint, token, tls, metadata } = config;
  if (!endpoint || !token?.trim()) {
    throw new AgentError("E_CONFIG", "endpoint or token not set in exporter config", {
      hint: "`jmp login --exporter` writes both; without a controller, run with --tls-grpc-listener or --unix",
    });
  }
  const warnings: string[] = [];
  const insecure = tls.insecure || env["JUMPSTARTER_GRPC_INSECURE"] === "1" || env["JMP_GRPC_INSECURE"] === "1";
  const options = readGrpcOptions(config.grpcOptions, warnings);
  const common: ChannelOptions = {
    connectTimeoutMs,
    ...(insecure ? { verify: false } : { ca: readCa(tls.ca) }),
    ...(options.serverName === undefined ? {} : { serverName: options.serverName }),
    ...(options.authority === undefined ? {} : { authority: options.authority }),
  };
  const channel = (timeoutMs: number): ChannelOptions => {
    const everyMs = options.keepaliveMs ?? keepaliveMs;
    if (everyMs >= never) return common;
    return { ...common, keepaliveMs: everyMs, keepaliveTimeoutMs: options.keepaliveTimeoutMs ?? timeoutMs };
  };
  return {
    endpoint: readEndpoint(endpoint),
    namespace: metadata.namespace ?? "",
    name: metadata.name,
    token: readToken(token),
    channel: channel(controllerKeepaliveTimeoutMs),
    routerChannel: channel(routerKeepaliveTimeoutMs),
    insecure,
    warnings,
  };
}

function readEndpoint(text: string): TcpAddress {
  try {
    return parseEndpoint(text);
  } catch (error) {
    throw new AgentError("E_CONFIG", `endpoint: ${toAgentError(error).message}`, { cause: error });
  }
}

/** Tokens come out of files, which end in a line end. */
function readToken(text: string): string {
  const token = text.trim();
  if (!/^[\x21-\x7e]+$/.test(token)) {
    throw new AgentError("E_CONFIG", "token: there are characters in it that no token has", {
      hint: "a token is one line without spaces",
    });
  }
  return token;
}

/** @returns PEM; undefined where the system's roots count */
function readCa(base64: string): string | undefined {
  if (base64.trim() === "") return undefined;
  const pem = Buffer.from(base64, "base64").toString("latin1");
  const certificates = pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
  try {
    for (const certificate of certificates) new X509Certificate(certificate);
  } catch (error) {
    throw new AgentError("E_CONFIG", "tls.ca: a certificate in it is damaged", { cause: error });
  }
  if (certificates.length === 0) {
    throw new AgentError("E_CONFIG", "tls.ca: there is no certificate in it", {
      hint: "it is a PEM file of certificates, encoded with base64",
    });
  }
  return certificates.join("\n");
}

interface GrpcOptions {
  keepaliveMs?: number;
  keepaliveTimeoutMs?: number;
  serverName?: string;
  authority?: string;
}

/** What gRPC's libraries can be told and is so here anyway, or is of no use to an exporter. */
const heededOtherwise = new Set([
  "keepalive_permit_without_calls",
  "http2.max_pings_without_data",
  "lb_policy_name",
  "max_receive_message_length",
  "max_send_message_length",
]);

/** Reads gRPC's channel arguments, with `grpc.` before their names or without. */
function readGrpcOptions(given: ExporterConfig["grpcOptions"], warnings: string[]): GrpcOptions {
  const options: GrpcOptions = {};
  const milliseconds = (key: string, value: string | number, leastMs: number): number | undefined => {
    const number = Number(value);
    if (Number.isFinite(number) && number > 0) return Math.min(Math.max(number, leastMs), never);
    warnings.push(`grpcOptions.${key}: must be a number of milliseconds, and is ignored`);
    return undefined;
  };
  for (const [key, value] of Object.entries(given)) {
    const name = key.replace(/^grpc\./, "");
    if (name === "keepalive_time_ms") {
      const ms = milliseconds(key, value, fastestPingMs);
      if (ms !== undefined) options.keepaliveMs = ms;
    } else if (name === "keepalive_timeout_ms") {
      const ms = milliseconds(key, value, 1);
      if (ms !== undefined) options.keepaliveTimeoutMs = ms;
    } else if (name === "ssl_target_name_override") {
      options.serverName = String(value);
    } else if (name === "default_authority") {
      options.authority = String(value);
    } else if (!heededOtherwise.has(name)) {
      warnings.push(`grpcOptions.${key}: is not known here, and is ignored`);
    }
  }
  return options;
}
