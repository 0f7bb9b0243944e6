import { lookup } from "node:dns/promises";
import { connect as connectSocket, isIP, type Socket } from "node:net";
import { connect as connectTls, type TLSSocket } from "node:tls";
import type { TcpAddress } from "../../client/address.ts";
import type { ControllerSettings } from "../../controller/settings.ts";
import { AgentError, isSystemError, toAgentError } from "../../driver/errors.ts";
import { systemRoots } from "../../sys/trusted-certificates.ts";

/** Who answers at an address over TLS. */
export interface TlsPeer {
  /** Why an agent with these settings does not take its certificate: OpenSSL's or Node's code. */
  readonly refused: string | undefined;
  readonly validFrom: Date;
  readonly validTo: Date;
  /** The names that the certificate is for. */
  readonly names: readonly string[];
  /** The name that it must be for. */
  readonly wantedName: string;
}

/**
 * Connects as an agent would, but looks at the certificate whatever it is.
 * @throws AgentError E_CONNECTION with the step that failed: the name, TCP, or TLS
 */
export async function lookAtPeer(
  { endpoint, channel }: Pick<ControllerSettings, "endpoint" | "channel">,
  limitMs: number,
): Promise<TlsPeer> {
  const { host, port } = endpoint;
  const wantedName = channel.serverName ?? host;
  await resolve(endpoint, limitMs);
  const socket = connectSocket({ host, port });
  const deadline = setTimeout(() => {
    socket.destroy(new AgentError("E_CONNECTION", `nothing answers within ${limitMs / 1_000} s`));
  }, limitMs);
  try {
    await opened(socket, "connect");
    const ca = channel.ca ?? systemRoots();
    const tls = connectTls({
      ...{ socket, host: wantedName, ALPNProtocols: ["h2"], rejectUnauthorized: false },
      ...(isIP(wantedName) ? {} : { servername: wantedName }),
      ...(ca === undefined ? {} : { ca }),
    });
    await opened(tls, "secureConnect").catch((error: unknown) => {
      if (error instanceof AgentError) throw error;
      throw new AgentError("E_CONNECTION", "what answers there does not speak TLS", { cause: error });
    });
    return { ...describe(tls), wantedName };
  } catch (thrown) {
    throw explain(thrown);
  } finally {
    clearTimeout(deadline);
    socket.destroy();
  }
}

/** A name server that does not answer takes far longer than anybody wants to wait. */
async function resolve({ host }: TcpAddress, limitMs: number): Promise<void> {
  let late: NodeJS.Timeout | undefined;
  try {
    const limit = new Promise<never>((_, reject) => {
      const text = `the name ${host} is not resolved within ${limitMs / 1_000} s`;
      late = setTimeout(() => reject(new AgentError("E_CONNECTION", text, { hint: nameHint })), limitMs);
    });
    await Promise.race([lookup(host), limit]);
  } catch (thrown) {
    if (thrown instanceof AgentError) throw thrown;
    const code = (thrown as NodeJS.ErrnoException).code ?? "";
    throw new AgentError("E_CONNECTION", `the name ${host} cannot be resolved (${code})`, {
      hint: nameHint,
      cause: thrown,
    });
  } finally {
    clearTimeout(late);
  }
}

const nameHint = "look at endpoint in the configuration, and at the name servers of this machine";

function opened(socket: Socket, event: "connect" | "secureConnect"): Promise<void> {
  return new Promise((resolve, reject) => {
    // Errors that come after the first are about the same.
    socket.on("error", reject);
    socket.once(event, resolve);
    socket.once("close", () => reject(new AgentError("E_CONNECTION", "the connection is cut at once")));
  });
}

function describe(tls: TLSSocket): Omit<TlsPeer, "wantedName"> {
  const { valid_from, valid_to, subjectaltname, subject } = tls.getPeerCertificate();
  const alternatives = (subjectaltname ?? "").split(", ").map((name) => name.replace(/^[\w ]+:/, ""));
  return {
    // Node's types say Error, and it is the code.
    refused: tls.authorized ? undefined : String(tls.authorizationError),
    validFrom: new Date(valid_from),
    validTo: new Date(valid_to),
    names: subjectaltname ? alternatives : [subject?.CN ?? ""].flat(),
  };
}

function explain(thrown: unknown): AgentError {
  if (!isSystemError(thrown)) return toAgentError(thrown);
  const hints: Record<string, string> = {
    ECONNREFUSED: "the controller does not run, or the port in endpoint is another one",
    ENETUNREACH: "this machine has no route there: look at its network",
    EHOSTUNREACH: "this machine has no route there: look at its network",
    ETIMEDOUT: "a firewall may be in the way",
  };
  return new AgentError("E_CONNECTION", toAgentError(thrown).message, { cause: thrown, hint: hints[thrown.code] });
}
