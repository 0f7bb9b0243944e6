import type { TestContext } from "node:test";
import { connect, type Client } from "../../../../agent/client/connect.ts";
import type { RemoteNode } from "../../../../agent/client/node.ts";
import type { Entry } from "../../../../agent/driver/entry.ts";
import { startExporter } from "../../../sim/exporter.ts";
import { clientEnv, clientProgram, missingClient, run } from "../../../sim/python-client.ts";

/** An exporter with its typed client. */
export interface GuestExporter {
  readonly client: Client;
  readonly socketPath: string;
  /** A driver by its dotted path. Throws if there is none. */
  readonly node: (path: string) => RemoteNode;
}

/** An exporter of these drivers in this process, which ends with the test. */
export async function exporter(t: TestContext, drivers: Record<string, Entry>): Promise<GuestExporter> {
  const { socketPath } = await startExporter(t, drivers);
  const client = await connect({ host: socketPath });
  t.after(() => client.close());
  const node = (path: string) => {
    const found = client.root.find(path);
    if (found === undefined) throw new Error(`the exporter has no ${path}`);
    return found;
  };
  return { client, socketPath, node };
}

/**
 * Runs a script with the Python client 0.9.0. It takes some 10 s to import: one script for a whole file.
 * @returns what it printed. Rejects, with all it said, when it fails.
 */
export async function python(socketPath: string, script: string, args: readonly string[] = []): Promise<string> {
  const version = "0.9.0";
  const missing = missingClient(version);
  if (missing !== false) throw new Error(missing);
  const { code, stdout, stderr } = await run(clientProgram(version, "python"), [script, ...args], {
    env: clientEnv(socketPath),
  });
  if (code !== 0) throw new Error(`${script} ended with ${code}:\n${stdout}\n${stderr}`);
  return stdout;
}
