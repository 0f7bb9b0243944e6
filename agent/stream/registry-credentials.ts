import { readFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import * as z from "zod";

/** A login, or the token that a registry gave for one (`docker login` keeps it as identity token). */
export type Credential = { readonly username: string; readonly password: string } | { readonly identityToken: string };

const authEntry = z.object({
  /** `username:password` in base64. */
  auth: z.string().optional(),
  username: z.string().optional(),
  password: z.string().optional(),
  identitytoken: z.string().optional(),
});
const authFile = z.object({ auths: z.record(z.string(), authEntry).optional() });

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

function credentialOf({ auth = "", ...entry }: z.output<typeof authEntry>): Credential | undefined {
  if (entry.identitytoken) return { identityToken: entry.identitytoken };
  const decoded = Buffer.from(auth, "base64").toString("utf8");
  const colon = decoded.indexOf(":");
  const username = entry.username || decoded.slice(0, Math.max(0, colon));
  const password = entry.password || (colon < 0 ? "" : decoded.slice(colon + 1));
  // Docker's own way to say that the password is an identity token.
  if (username === "<token>" && password !== "") return { identityToken: password };
  return username === "" ? undefined : { username, password };
}
