// Pushes a bundle's files to a registry without TLS; waits until the registry answers.
// usage: node --import tsx scripts/bundle/push.mjs DIRECTORY HOST:PORT/NAMESPACE/NAME:TAG
import { setTimeout as sleep } from "node:timers/promises";
import { filesBelow, pushBundle } from "../../bundles/oci/push.ts";
import { parseReference } from "../../bundles/oci/reference.ts";

const patienceMs = 20_000;

const [directory, name] = process.argv.slice(2);
if (name === undefined) throw new Error("usage: push.mjs DIRECTORY HOST:PORT/NAMESPACE/NAME:TAG");
const reference = parseReference(name);
const limit = AbortSignal.timeout(patienceMs);
for (;;) {
  const answer = await fetch(`http://${reference.host}/v2/`, { signal: limit }).catch(() => undefined);
  if (answer?.ok) break;
  limit.throwIfAborted();
  await sleep(50);
}
const options = { plainHttp: [reference.host], signal: AbortSignal.timeout(60_000) };
console.log(await pushBundle(reference, await filesBelow(directory), options));
