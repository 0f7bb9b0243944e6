import { existsSync, realpathSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { AgentError } from "../../driver/errors.ts";

/** The program that runs now, as it lies on the disk. */
export interface OwnProgram {
  /** With `dist/`, `node_modules/`, `systemd/` and, where Node was brought along, `node`. */
  readonly folder: string;
  /** The Node that runs it. */
  readonly node: string;
}

/** @throws AgentError E_UNSUPPORTED for one that is not whole, as a package's is, which brings its units itself */
export function ownProgram(from = import.meta.url): OwnProgram {
  const script = fileURLToPath(from);
  // This code may be in a chunk of the bundle, which is one folder deeper.
  const folder = [dirname(dirname(script)), dirname(dirname(dirname(script)))].find((path) =>
    existsSync(join(path, "dist/jmp-agent.js")),
  );
  if (folder === undefined || script.endsWith(".ts")) {
    throw new AgentError("E_UNSUPPORTED", "only a built agent can be installed", { hint: "npm run build" });
  }
  if (!existsSync(join(folder, "systemd"))) {
    throw new AgentError("E_UNSUPPORTED", `${folder} holds no units: it was installed by a package already`, {
      hint: "run the jmp-agent of a source tree: npm ci && npm run build && ./dist/jmp-agent.js install",
    });
  }
  return { folder, node: realpathSync(process.execPath) };
}
