/** What Corellium's REST API (v1) is asked and what of its answers matters. Further keys are ignored. */
import * as z from "zod";

const text = z.string();

export const projects = z.array(z.object({ id: text, name: text }));
export const models = z.array(z.object({ model: text, flavor: text, name: text.optional() }));
export const instances = z.array(z.object({ id: text, name: text.nullish(), state: text.nullish() }));
export const created = z.object({ id: text });
export const consoles = z.object({ consoles: z.array(z.object({ id: text, name: text })).nullish() });
export const consoleAddress = z.object({ url: z.url({ protocol: /^wss?$/ }) });

/** Why it refused, in its own words. */
export const refusal = z.object({ error: z.string() });

export interface Instance {
  readonly id: string;
  readonly state?: string | null | undefined;
}

/** `POST v1/instances` */
export function newInstance(name: string, project: string, flavor: string, os: string, osbuild: string): object {
  return { name, project, flavor, ...(os === "" ? {} : { os }), ...(osbuild === "" ? {} : { osbuild }) };
}

const instance = (id: string) => `v1/instances/${encodeURIComponent(id)}`;

export const paths = {
  projects: "v1/projects",
  models: "v1/models",
  instances: "v1/instances",
  instance,
  state: (id: string) => `${instance(id)}/state`,
  console: (id: string, consoleId: string) =>
    `${instance(id)}/console?type=${encodeURIComponent(consoleId.replaceAll("port-", ""))}`,
};

/**
 * @param host HOST or HOST:PORT; with `http://` before it only for a tunnel that ends on this machine
 * @returns undefined if it is no host
 */
export function apiBase(host: string): URL | undefined {
  const base = host.includes("://") ? host : `https://${host}`;
  if (!URL.canParse(base)) return undefined;
  const url = new URL(base);
  const local = ["localhost", "127.0.0.1", "[::1]"].includes(url.hostname);
  const isHost = url.pathname === "/" && url.search === "" && url.hash === "" && url.username === "";
  if (!isHost || (url.protocol !== "https:" && !(url.protocol === "http:" && local))) return undefined;
  return new URL("/api/", url);
}
