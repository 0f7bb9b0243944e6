import { homedir } from "node:os";
import { join } from "node:path";

/** Where this agent keeps what it must not forget: systemd's state directory, else that of root or of this user. */
export function stateDirectory(env: NodeJS.ProcessEnv = process.env): string {
  // systemd lists several, separated by colons.
  const given = env["STATE_DIRECTORY"]?.split(":")[0];
  if (given !== undefined && given !== "") return given;
  const states = process.geteuid?.() === 0 ? "/var/lib" : env["XDG_STATE_HOME"] || join(homedir(), ".local", "state");
  return join(states, "jumpstarter-agent");
}
