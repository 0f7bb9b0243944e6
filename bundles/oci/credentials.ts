import { readFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import * as z from "zod";

export interface Credential {
  readonly username: string;
  readonly password: string;
}

const authFile = z.object({
  auths: z
    .record(
      z.string(),
      z.object({ auth: z.string().optional(), username: z.string().optional(), password: z.string().optional() }),
    )
    .optional(),
});

/** What Docker calls its own registry in its files. */
const dockerHubKey = "https://index.docker.io/v1/";

/** The files that Docker and Podman keep logins in, in the order they are asked. */
function authFiles(env: NodeJS.ProcessEnv): string[] {
  const home = env["HOME"] ?? homedir();
  const files = [
    env["REGISTRY_AUTH_FILE"],
    env["XDG_RUNTIME_DIR"] && join(env["XDG_RUNTIME_DIR"], "containers/auth.json"),
    join(env["XDG_CONFIG_HOME"] ?? join(home, ".config"), "containers/auth.json"),
    join(env["DOCKER_CONFIG"] ?? join(home, ".docker"), "config.json"),
  ];
  return files.filter((file) => file !== undefined && file !== "") as string[];
}

/**
 * Looks up the login for a registry.
 * @param options.useEnvironment whether OCI_USERNAME and OCI_PASSWORD are meant for this registry. They name none, so
 *   they must not go to one that a client asked for.
 */
export async function findCredential(
  host: string,
  repository: string,
  options: { useEnvironment: boolean; env?: NodeJS.ProcessEnv },
): Promise<Credential | undefined> {
  const env = options.env ?? process.env;
  const { OCI_USERNAME: username, OCI_PASSWORD: password } = env;
  if (options.useEnvironment && username && password) return { username, password };
  const keys = keysFor(host, repository);
  for (const path of authFiles(env)) {
    const auths = await readAuths(path);
    for (const key of keys) {
      const entry = Object.hasOwn(auths, key) ? auths[key] : undefined;
      const credential = entry && credentialOf(entry);
      if (credential !== undefined) return credential;
    }
  }
  return undefined;
}

/** Podman's files may name a namespace, which then wins over the host. */
function keysFor(host: string, repository: string): string[] {
  const names = repository.split("/");
  const scoped = names.map((_, index) => [host, ...names.slice(0, names.length - index)].join("/"));
  return [...scoped, host, `https://${host}`, ...(host === "docker.io" ? [dockerHubKey] : [])];
}

async function readAuths(path: string) {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch {
    return {};
  }
  try {
    return authFile.parse(JSON.parse(text)).auths ?? {};
  } catch {
    // Its content may be a secret: not even the parser's complaint about it is told.
    return {};
  }
}

function credentialOf(entry: {
  auth?: string | undefined;
  username?: string | undefined;
  password?: string | undefined;
}) {
  if (entry.username && entry.password) return { username: entry.username, password: entry.password };
  const decoded = Buffer.from(entry.auth ?? "", "base64").toString("utf8");
  const colon = decoded.indexOf(":");
  return colon < 0 ? undefined : { username: decoded.slice(0, colon), password: decoded.slice(colon + 1) };
}
