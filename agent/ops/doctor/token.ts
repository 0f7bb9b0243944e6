/** When a JSON web token (RFC 7519) stops being good; undefined for what is none, or says no time. Nothing is verified. */
export function tokenExpiry(token: string): Date | undefined {
  const [, payload, signature, ...rest] = token.split(".");
  if (payload === undefined || signature === undefined || rest.length > 0) return undefined;
  try {
    const claims = JSON.parse(Buffer.from(payload, "base64url").toString("utf8")) as unknown;
    const { exp } = claims as { exp?: unknown };
    const expiry = new Date(Number(exp) * 1000);
    return typeof exp === "number" && !Number.isNaN(expiry.getTime()) ? expiry : undefined;
  } catch {
    return undefined;
  }
}
