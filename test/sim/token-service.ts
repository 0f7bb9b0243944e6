import { randomUUID, sign, X509Certificate } from "node:crypto";
import { once } from "node:events";
import type { IncomingMessage } from "node:http";
import { createServer } from "node:https";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { text } from "node:stream/consumers";
import { temporaryDirectory } from "./bundle.ts";
import { createAuthority, type Authority } from "./certificates.ts";

export interface TokenRequest {
  readonly method: string;
  readonly authorization: string | undefined;
  /** Of the query, or of the form. */
  readonly parameters: URLSearchParams;
}

/** Gives tokens to registries' users, as the distribution project's token specification wants them. */
export interface TokenService {
  readonly authority: Authority;
  /** PEM file of the authority. */
  readonly authorityFile: string;
  readonly requests: TokenRequest[];
  /** How long tokens are good. Registries take them for a minute more. */
  lifeSeconds: number;
  /** Lines of a registry's configuration. */
  readonly registryConfig: readonly string[];
}

export const tokenUser = { username: "lab", password: "s3cret" };
export const identityToken = "identity-of-the-lab";

/** Starts a token service behind TLS. Who logs in may pull and push, anybody may pull what is called `public/…`. */
export async function startTokenService(t: TestContext): Promise<TokenService> {
  const directory = await temporaryDirectory(t);
  const authority = await createAuthority(directory);
  const authorityFile = join(directory, "ca.pem");
  const { certificate, key } = await authority.serverCertificate();
  const requests: TokenRequest[] = [];
  const base64 = (data: string | Uint8Array) => Buffer.from(data).toString("base64url");

  const tokenFor = (scopes: readonly string[], isKnown: boolean) => {
    const now = Math.floor(Date.now() / 1000);
    const access = scopes.map((scope) => {
      const [type, name = "", actions = ""] = scope.split(":");
      const granted = actions.split(",").filter((one) => isKnown || (one === "pull" && name.startsWith("public/")));
      return { type, name, actions: granted };
    });
    const header = { typ: "JWT", alg: "ES256", x5c: [new X509Certificate(certificate).raw.toString("base64")] };
    const times = { iat: now, nbf: now - 1, exp: now + service.lifeSeconds };
    const claims = { iss: "lab", sub: "lab", aud: "registry.lab", jti: randomUUID(), ...times, access };
    const signed = `${base64(JSON.stringify(header))}.${base64(JSON.stringify(claims))}`;
    return `${signed}.${base64(sign("sha256", Buffer.from(signed), { key, dsaEncoding: "ieee-p1363" }))}`;
  };
  const answer = async (request: IncomingMessage) => {
    const { method = "", headers } = request;
    const query = new URL(request.url ?? "", "https://x").searchParams;
    const parameters = method === "POST" ? new URLSearchParams(await text(request)) : query;
    requests.push({ method, authorization: headers.authorization, parameters });
    const login = `Basic ${Buffer.from(`${tokenUser.username}:${tokenUser.password}`).toString("base64")}`;
    const refresh = parameters.get("grant_type") === "refresh_token" ? parameters.get("refresh_token") : undefined;
    const isKnown = refresh === undefined ? headers.authorization === login : refresh === identityToken;
    if (!isKnown && (headers.authorization !== undefined || refresh !== undefined)) return undefined;
    const scopes = parameters.getAll("scope").flatMap((scope) => scope.split(" "));
    const token = tokenFor(scopes, isKnown);
    return { ...(refresh === undefined ? { token } : { access_token: token }), expires_in: service.lifeSeconds };
  };
  const server = createServer({ key, cert: certificate }, (request, response) => {
    void answer(request).then((document) => {
      response.writeHead(document === undefined ? 401 : 200).end(JSON.stringify(document ?? { details: "no" }));
    });
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(async () => {
    server.closeAllConnections();
    await new Promise((done) => server.close(done));
  });
  const realm = `https://127.0.0.1:${(server.address() as AddressInfo).port}/token`;
  const settings = { realm, service: "registry.lab", issuer: "lab", rootcertbundle: authorityFile };
  const service: TokenService = {
    authority,
    authorityFile,
    requests,
    lifeSeconds: 300,
    registryConfig: [`auth: { token: ${JSON.stringify(settings)} }`],
  };
  return service;
}
