import { once } from "node:events";
import { join } from "node:path";
import type { Readable } from "node:stream";
import type { TestContext } from "node:test";
import { scratch } from "./agent.ts";
import { lan, type Lan } from "./lan.ts";

/** Runs `jmp-agent boot` on the host of a LAN; resolves when it answers DHCP. It ends with the test. */
export async function startBootCommand(
  t: TestContext,
  { host }: Lan,
  words: readonly string[],
): Promise<{ output(): string }> {
  const args = ["--import", "tsx", "agent/cli/jmp-agent.ts", "boot", "--interface", lan.device].concat(
    ["--log-format", "text", ...words],
    words.includes("--dhcp") ? ["--lease-file", join(scratch(t), "leases.json")] : [],
  );
  const child = host.spawn(process.execPath, args, { stdio: ["ignore", "pipe", "pipe"] });
  let said = "";
  for (const stream of [child.stdout, child.stderr]) stream?.on("data", (chunk: Buffer) => (said += chunk.toString()));
  const exited = once(child, "exit").then(() => {
    throw new Error(`jmp-agent boot does not start: ${said}`);
  });
  exited.catch(() => {});
  while (!/DHCP on/.test(said)) await Promise.race([once(child.stdout as Readable, "data"), exited]);
  return { output: () => said };
}
