// Bundles the two binaries to dist/, each driver in a chunk of its own that is loaded only when a config names it.
import { chmodSync, copyFileSync, cpSync } from "node:fs";
import { basename, join } from "node:path";
import { build } from "esbuild";
import { replaceFolder } from "./replace-folder.mjs";

/**
 * Bundles both binaries into `outdir`.
 * @returns the sources that went into it, by their paths from here
 */
export async function bundleProgram(outdir, { sourcemap = true } = {}) {
  const { metafile } = await build({ ...options, outdir, sourcemap, metafile: true });
  // The Python half of the side-car lies beside the code that starts it.
  copyFileSync("agent/sidecar/host.py", join(outdir, "chunks/host.py"));
  // And so does the status page.
  cpSync("agent/ops/http/page", join(outdir, "chunks/page"), { recursive: true });
  for (const binary of ["jmp-agent.js", "j.js"]) chmodSync(join(outdir, binary), 0o755);
  return Object.keys(metafile.inputs);
}

const options = {
  entryPoints: { "jmp-agent": "agent/cli/jmp-agent.ts", j: "agent/cli/j.ts" },
  bundle: true,
  splitting: true,
  format: "esm",
  platform: "node",
  target: "node20.19",
  // Smaller sources are 2 MiB less in an idle agent; stack traces are readable with node --enable-source-maps.
  minify: true,
  legalComments: "none",
  // Native parts stay what their packages ship; missing ones are an error of their driver alone.
  // ssh2 does without its own, whether or not they were built where this runs.
  external: ["koffi", "opendal", "cpu-features", "*.node"],
  chunkNames: "chunks/[name]-[hash]",
  banner: {
    // What packages of the other module system ask for; ssh2's WebAssembly wants to know where it is.
    js: "import { createRequire as createRequire_ } from 'node:module'; const require = createRequire_(import.meta.url), __dirname = import.meta.dirname;",
  },
};

if (basename(process.argv[1] ?? "") === "build.mjs") {
  // Beside dist/ and then in its place, so that an agent that starts meanwhile finds a whole one.
  const fresh = `dist.${process.pid}`;
  await bundleProgram(fresh);
  replaceFolder(fresh, "dist");
}
