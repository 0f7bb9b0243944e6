import { AgentError } from "../../agent/driver/errors.ts";
import { withoutSecrets } from "../../agent/sys/program.ts";

/** Names that change which code runs, rather than what it does: loaders, interpreters' start files, shells' options. */
const blocked = new Set(
  (
    "LD_PRELOAD LD_LIBRARY_PATH PATH PYTHONPATH BASH_ENV KUBECONFIG HOME " + // as the Python exporter
    "ENV PS4 IFS SHELLOPTS BASHOPTS PROMPT_COMMAND CDPATH GLOBIGNORE NODE_OPTIONS NODE_PATH PERL5OPT PERL5LIB " +
    "PYTHONSTARTUP PYTHONHOME RUBYOPT RUBYLIB GIT_SSH GIT_SSH_COMMAND GCONV_PATH"
  ).split(" "),
);
const blockedPrefixes = ["LD_", "BASH_FUNC_"];

/** What Python takes for an identifier. */
const identifier = /^[\p{XID_Start}_]\p{XID_Continue}*$/u;

/**
 * Environment of a script: the exporter's without its secrets, the configured one, the client's.
 * @throws AgentError E_INVALID with the texts that clients know
 */
export function scriptEnvironment(
  own: NodeJS.ProcessEnv,
  configured: Readonly<Record<string, string>>,
  client: Readonly<Record<string, string>>,
): NodeJS.ProcessEnv {
  for (const [name, value] of Object.entries(client)) {
    if (!identifier.test(name) || value.includes("\0")) {
      throw new AgentError("E_INVALID", `Invalid environment variable name: ${name}`);
    }
    if (blocked.has(name) || blockedPrefixes.some((prefix) => name.startsWith(prefix))) {
      throw new AgentError("E_INVALID", `Environment variable '${name}' is blocked for security reasons`);
    }
  }
  return { ...withoutSecrets(own), ...configured, ...client };
}
