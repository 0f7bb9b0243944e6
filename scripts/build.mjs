// Bundles the two binaries to dist/, each driver in a chunk of its own that is loaded only when a config names it.
import { chmodSync, copyFileSync, renameSync, rmSync } from "node:fs";
import { build } from "esbuild";

// Beside dist/ and then in its place, so that an agent that starts meanwhile finds a whole one.
const fresh = `dist.${process.pid}`;
await build({
  entryPoints: { "jmp-agent": "agent/cli/jmp-agent.ts", j: "agent/cli/j.ts" },
  outdir: fresh,
  bundle: true,
  splitting: true,
  format: "esm",
  platform: "node",
  target: "node20.19",
  // Smaller sources are 2 MiB less in an idle agent; stack traces are readable with node --enable-source-maps.
  minify: true,
  sourcemap: true,
  legalComments: "none",
  // Native parts stay what their packages ship; missing ones are an error of their driver alone.
  // ssh2 does without its own, whether or not they were built where this runs.
  external: ["koffi", "opendal", "cpu-features", "*.node"],
  chunkNames: "chunks/[name]-[hash]",
  banner: {
    // What packages of the other module system ask for; ssh2's WebAssembly wants to know where it is.
    js: "#!/usr/bin/env node\nimport { createRequire as createRequire_ } from 'node:module'; const require = createRequire_(import.meta.url), __dirname = import.meta.dirname;",
  },
});
// The Python half of the side-car lies beside the code that starts it.
copyFileSync("agent/sidecar/host.py", `${fresh}/chunks/host.py`);
for (const binary of ["jmp-agent.js", "j.js"]) chmodSync(`${fresh}/${binary}`, 0o755);
rmSync("dist", { recursive: true, force: true });
renameSync(fresh, "dist");
