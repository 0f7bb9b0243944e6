import type { ServerResponse } from "node:http";

/** What a route answers with, whole. */
export interface Answer {
  readonly status?: number;
  readonly type: string;
  readonly body: string | Buffer;
  readonly headers?: Readonly<Record<string, string>>;
}

/** What no page of ours needs is forbidden to all of them. @param styles hashes of style elements that a page may have */
export function policy(styles: readonly string[] = []): string {
  const sources = ["'self'", ...styles.map((hash) => `'sha256-${hash}'`)].join(" ");
  return (
    `default-src 'none'; script-src 'self'; style-src ${sources}; img-src 'self'; connect-src 'self'; ` +
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
  );
}

/** On every answer. */
export const standardHeaders: Readonly<Record<string, string>> = {
  "Cache-Control": "no-store",
  "Content-Security-Policy": policy(),
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Resource-Policy": "same-origin",
  "Referrer-Policy": "no-referrer",
  "X-Content-Type-Options": "nosniff",
  "X-Frame-Options": "DENY",
};

export const json = (value: unknown, status = 200): Answer => ({
  status,
  type: "application/json",
  body: `${JSON.stringify(value)}\n`,
});

export const refusal = (status: number, error: string, headers: Record<string, string> = {}): Answer => ({
  ...json({ error }, status),
  headers,
});

export function send(
  response: ServerResponse,
  { status = 200, type, body, headers = {} }: Answer,
  head: boolean,
): void {
  const bytes = typeof body === "string" ? Buffer.from(body) : body;
  response.writeHead(status, { "Content-Type": type, "Content-Length": bytes.length, ...headers });
  response.end(head ? undefined : bytes);
}
