import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import type { Entry } from "../../agent/driver/entry.ts";
import { createExporter, type Exporter, type ExporterOptions } from "../../agent/session/exporter.ts";
import { serve } from "../../agent/session/server.ts";
import { createDirectSession, type Session } from "../../agent/session/session.ts";

/** An exporter of these drivers on a private unix socket; both end with the test. */
export async function startExporter(
  t: TestContext,
  drivers: Record<string, Entry>,
  { motd, ...options }: Partial<Omit<ExporterOptions, "export">> & { motd?: string } = {},
): Promise<{ exporter: Exporter; session: Session; socketPath: string }> {
  const folder = await mkdtemp(join(tmpdir(), "jmp-agent-"));
  const closers = [() => rm(folder, { recursive: true, force: true })];
  t.after(async () => {
    for (const close of closers.reverse()) await close();
  });
  const exporter = await createExporter({ name: "test", ...options, export: drivers });
  closers.push(() => exporter.close());
  const socketPath = join(folder, "socket");
  const session = createDirectSession(exporter, { motd });
  const served = await serve(session, { unix: socketPath });
  closers.push(() => served.close(0));
  return { exporter, session, socketPath };
}
