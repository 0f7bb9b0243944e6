import { ChannelPool } from "../../controller/channel-pool.ts";
import { createControllerClient } from "../../controller/controller-client.ts";
import { controllerSettings, type ControllerSettings } from "../../controller/settings.ts";
import { hostPort } from "../../client/address.ts";
import { toAgentError } from "../../driver/errors.ts";
import type { Configured } from "./configured.ts";
import { findingsOf, type DoctorFinding } from "./finding.ts";
import { lookAtPeer, type TlsPeer } from "./tls-peer.ts";
import { tokenExpiry } from "./token.ts";

/** Each step: resolve and connect; ask. */
const defaultLimitMs = 5_000;

/** What runs out within this time is worth a word. */
const soonMs = 14 * 24 * 3600 * 1000;

const { ok, warning, problem } = findingsOf("controller");

export interface ControllerCheckOptions {
  readonly env: NodeJS.ProcessEnv;
  readonly now?: Date;
  readonly limitMs?: number;
}

/** Whether an exporter would reach its controller, and be let in. Registers nothing and shows nobody as online. */
export async function checkController(
  { config }: Pick<Configured, "config">,
  { env, now = new Date(), limitMs = defaultLimitMs }: ControllerCheckOptions,
): Promise<DoctorFinding[]> {
  const { name } = config.metadata;
  if (!config.endpoint && !config.token) return [ok(`${name}: has no controller, and can be served by a listener`)];
  let settings: ControllerSettings;
  try {
    settings = controllerSettings(config, env);
  } catch (thrown) {
    const { message, hint } = toAgentError(thrown);
    return [problem(`${name}: ${message}`, hint)];
  }
  const findings = settings.warnings.map((text) => warning(`${name}: ${text}`));
  const token = checkToken(name, settings.token, now);
  const at = `${name}: controller ${hostPort(settings.endpoint)}`;
  try {
    const peer = await lookAtPeer(settings, limitMs);
    const certificate = checkCertificate(at, peer, settings, now);
    findings.push(...certificate, ...token);
    if ([...certificate, ...token].some(({ level }) => level === "problem")) return findings;
  } catch (thrown) {
    const { message, hint } = toAgentError(thrown);
    return [...findings, problem(`${at}: ${message}`, hint), ...token];
  }
  findings.push(await ask(at, settings, limitMs));
  return findings;
}

function checkToken(name: string, token: string, now: Date): DoctorFinding[] {
  const expiry = tokenExpiry(token);
  const hint = "`jmp login --exporter` gets a new one";
  if (expiry === undefined || expiry.getTime() - now.getTime() > soonMs) return [];
  if (expiry > now) return [warning(`${name}: its token is good until ${day(expiry)} only`, hint)];
  return [problem(`${name}: its token was good until ${day(expiry)}`, hint)];
}

const day = (date: Date) => date.toISOString().slice(0, 16).replace("T", " ");

function checkCertificate(at: string, peer: TlsPeer, settings: ControllerSettings, now: Date): DoctorFinding[] {
  const { refused, validFrom, validTo, names, wantedName } = peer;
  if (settings.insecure) {
    return [warning(`${at}: its certificate is not looked at: anybody on the way can take its place`, "set tls.ca")];
  }
  if (refused === undefined) {
    if (validTo.getTime() - now.getTime() > soonMs) return [ok(`${at}: its certificate is good until ${day(validTo)}`)];
    return [warning(`${at}: its certificate is good until ${day(validTo)} only`, "renew it on the controller")];
  }
  switch (refused) {
    case "CERT_HAS_EXPIRED": {
      const hint = "renew it on the controller, or set this machine's clock";
      return [problem(`${at}: its certificate was good until ${day(validTo)}`, hint)];
    }
    case "CERT_NOT_YET_VALID":
      return [problem(`${at}: its certificate is not good before ${day(validFrom)}`, "set this machine's clock")];
    case "ERR_TLS_CERT_ALTNAME_INVALID": {
      const hint = "put one of these names into endpoint, or into grpcOptions as grpc.ssl_target_name_override";
      return [problem(`${at}: its certificate is for ${names.join(", ")}, not for ${wantedName}`, hint)];
    }
    default: {
      const hint = "set tls.ca to the authority that signed it, in PEM, encoded with base64";
      return [problem(`${at}: its certificate is not signed by anybody who is trusted (${refused})`, hint)];
    }
  }
}

/** Asks for what has no effect. */
async function ask(at: string, settings: ControllerSettings, limitMs: number): Promise<DoctorFinding> {
  const channels = new ChannelPool();
  try {
    const client = createControllerClient({ settings: () => settings, channels });
    await client.serviceEndpoints(AbortSignal.timeout(limitMs));
    return ok(`${at}: answers, and knows the exporter's token`);
  } catch (thrown) {
    const { code, message } = toAgentError(thrown);
    if (code === "E_UNSUPPORTED") {
      return ok(`${at}: answers; it is too old to say whether it knows the exporter's token`);
    }
    const log = "look at the controller's own log";
    if (code === "E_CANCELLED") return problem(`${at}: has not answered within ${limitMs / 1_000} s`, log);
    if (code === "E_CONNECTION" || code === "E_TIMEOUT") return problem(`${at}: ${message}`, log);
    return problem(`${at}: does not let the exporter in: ${message}`, "`jmp login --exporter` gets a new token");
  } finally {
    await channels.close();
  }
}
