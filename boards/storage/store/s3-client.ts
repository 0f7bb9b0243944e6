import type { IncomingMessage } from "node:http";
import { AgentError } from "../../../agent/driver/errors.ts";
import type { PresignedRequest } from "../interface.ts";
import { HttpClient, parseEndpoint, readText, type HttpRequest } from "./http-client.ts";
import { canonicalQuery, presignQuery, sha256, signHeaders, uriEncode, type Signer, type ToSign } from "./sigv4.ts";

/** The options of OpenDAL's s3 service that are known here. */
export interface S3Options {
  bucket: string;
  endpoint?: string;
  region?: string;
  root?: string;
  access_key_id?: string;
  secret_access_key?: string;
  session_token?: string;
  /** `true`: the bucket is part of the host name. */
  enable_virtual_host_style?: string;
  /** `true`: requests are not signed if there are no credentials. */
  allow_anonymous?: string;
  /** `true`: AWS_* of the environment are not read. */
  disable_config_load?: string;
}

export interface S3Request {
  readonly method: HttpRequest["method"];
  /** Empty for the bucket itself. */
  readonly key: string;
  readonly query?: Readonly<Record<string, string>>;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Buffer;
}

/** Signed requests to one bucket. */
export class S3Client {
  readonly bucket: string;
  readonly #http: HttpClient;
  /** Undefined: anonymous. */
  readonly #signer: Signer | undefined;
  readonly #base: string;

  constructor(options: S3Options, environment: NodeJS.ProcessEnv = process.env) {
    const env = isTrue(options.disable_config_load) ? {} : environment;
    const region = options.region ?? env["AWS_REGION"] ?? env["AWS_DEFAULT_REGION"] ?? "us-east-1";
    const given = options.endpoint ?? env["AWS_ENDPOINT_URL"] ?? `https://s3.${region}.amazonaws.com`;
    const endpoint = parseEndpoint(given.includes("://") ? given : `https://${given}`);
    this.bucket = options.bucket;
    const path = endpoint.pathname.replace(/\/$/, "");
    if (isTrue(options.enable_virtual_host_style)) {
      endpoint.hostname = `${options.bucket}.${endpoint.hostname}`;
      this.#base = `${path}/`;
    } else {
      this.#base = `${path}/${uriEncode(options.bucket)}/`;
    }
    this.#http = new HttpClient(endpoint.origin);
    const accessKeyId = options.access_key_id ?? env["AWS_ACCESS_KEY_ID"];
    const secretAccessKey = options.secret_access_key ?? env["AWS_SECRET_ACCESS_KEY"];
    const sessionToken = options.session_token ?? env["AWS_SESSION_TOKEN"];
    if (accessKeyId !== undefined && secretAccessKey !== undefined) {
      this.#signer = { region, credentials: { accessKeyId, secretAccessKey, sessionToken } };
    } else if (!isTrue(options.allow_anonymous)) {
      throw new AgentError("E_CONFIG", "s3 has no credentials", {
        hint: "kwargs access_key_id and secret_access_key, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
      });
    }
  }

  /** Any answer of the server; the caller reads or destroys it. */
  send({ method, key, query = {}, headers = {}, body }: S3Request, signal?: AbortSignal): Promise<IncomingMessage> {
    const toSign = this.#toSign(method, key, query, headers);
    const signed =
      this.#signer === undefined ? headers : signHeaders(toSign, sha256(body ?? ""), this.#signer, new Date());
    const search = canonicalQuery(query);
    const path = search === "" ? toSign.path : `${toSign.path}?${search}`;
    return this.#http.send({ method, path, headers: signed, ...(body === undefined ? {} : { body }) }, signal);
  }

  /** The text of a good answer. @throws AgentError E_FAILED with the server's code, also when it hides in a 200 */
  async ask(request: S3Request, signal?: AbortSignal): Promise<{ text: string; response: IncomingMessage }> {
    const response = await this.send(request, signal);
    const text = await readText(response);
    const status = response.statusCode ?? 0;
    if (status < 200 || status >= 300 || text.includes("<Error>")) throw s3Error(response, text);
    return { text, response };
  }

  presign(method: string, key: string, expireSeconds: number): PresignedRequest {
    const toSign = this.#toSign(method, key, {}, {});
    const url = this.#http.origin + toSign.path;
    if (this.#signer === undefined) return { url, method, headers: {} };
    return { url: `${url}?${presignQuery(toSign, expireSeconds, this.#signer, new Date())}`, method, headers: {} };
  }

  /** The key as it stands in a request or in `x-amz-copy-source`. */
  encodeKey(key: string): string {
    return key.split("/").map(uriEncode).join("/");
  }

  close(): void {
    this.#http.close();
  }

  #toSign(method: string, key: string, query: ToSign["query"] & object, headers: ToSign["headers"] & object): ToSign {
    const host = new URL(this.#http.origin).host;
    return { method, host, path: this.#base + this.encodeKey(key), query, headers };
  }
}

/** What S3 says is wrong. A HEAD has no body to say it in. */
export function s3Error(response: IncomingMessage, text: string): AgentError {
  const code = xmlValues(text, "Code")[0] ?? response.statusMessage ?? "";
  const message = xmlValues(text, "Message")[0] ?? "";
  return new AgentError("E_FAILED", `s3 answered ${response.statusCode} ${code}: ${message}`.replace(/: $/, ""));
}

const entities: Readonly<Record<string, string>> = { lt: "<", gt: ">", amp: "&", quot: '"', apos: "'" };

/** The texts of all elements of this name, which in the answers of S3 hold text only. */
export function xmlValues(text: string, element: string): string[] {
  return [...text.matchAll(new RegExp(`<${element}>([^<]*)</${element}>`, "g"))].map(([, value = ""]) =>
    value.replace(/&(?:#(\d+)|#x([0-9a-f]+)|(\w+));/gi, (entity, decimal, hex, name: string) => {
      if (decimal !== undefined) return String.fromCodePoint(Number(decimal));
      if (hex !== undefined) return String.fromCodePoint(Number.parseInt(hex as string, 16));
      return entities[name] ?? entity;
    }),
  );
}

function isTrue(option: string | undefined): boolean {
  return option === "true" || option === "True" || option === "1";
}
