/** Exporters of one process that want a bundle: `cache-process.ts DIRECTORY REFERENCE EXPORTERS [LIMIT]`. Ends when stdin does. */
import { LogBus } from "../../agent/driver/log.ts";
import { openBundle } from "../../bundles/bundle.ts";
import { BundleCache } from "../../bundles/cache/cache.ts";
import { parseReference } from "../../bundles/oci/reference.ts";

const [, , directory = "", reference = "", exporters = "1"] = process.argv;
const logs = new LogBus();
logs.subscribe(({ severity, message }) => console.log(`${severity} ${message}`));
const cache = new BundleCache({ directory, log: logs.logger({ source: "driver", logger: "test" }) });
const parsed = parseReference(reference);
const access = {
  cache: async () => cache,
  plainHttp: parsed.kind === "registry" ? [parsed.host] : [],
  registryCa: undefined,
  environmentCredentialsFor: undefined,
};
const bundles = await Promise.all(Array.from({ length: Number(exporters) }, () => openBundle(parsed, access)));
for (const bundle of bundles) console.log(`got ${bundle.digest} in ${bundle.directory}`);
process.stdin.resume().once("end", () => {
  for (const bundle of bundles) bundle.release();
  void cache.close();
});
