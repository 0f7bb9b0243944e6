// Runs Debian's docker-registry in the foreground.
// usage: node scripts/bundle/registry.mjs DIRECTORY HOST:PORT
import { spawn } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const [directory, address] = process.argv.slice(2);
if (address === undefined) throw new Error("usage: node scripts/bundle/registry.mjs DIRECTORY HOST:PORT");
mkdirSync(directory, { recursive: true });
const config = join(directory, "config.yml");
writeFileSync(
  config,
  `version: 0.1
log: { level: error, accesslog: { disabled: true } }
storage: { filesystem: { rootdirectory: ${JSON.stringify(join(directory, "blobs"))} } }
http: { addr: "${address}" }
`,
);
const registry = spawn("docker-registry", ["serve", config], { stdio: "inherit" });
for (const signal of ["SIGTERM", "SIGINT"]) process.on(signal, () => registry.kill(signal));
registry.on("exit", (code) => process.exit(code ?? 1));
