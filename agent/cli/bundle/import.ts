import { formatReference, type RegistryReference } from "../../../bundles/oci/reference.ts";
import { AgentError } from "../../driver/errors.ts";
import { defineCommand } from "../command.ts";
import { cacheOption, showCached, takeIntoCache, withCache } from "./cache.ts";
import { parseCarried } from "./carried.ts";
import { interruptible } from "./interruptible.ts";
import { parsePlace, readingFrom, type OpenedPlace } from "./places.ts";

export const importBundle = defineCommand({
  name: "bundle import",
  summary:
    "Take a bundle from a directory or a tar archive into this host's cache, where flashers find it without network.",
  words: { usage: "DIR|FILE.tar [REF]", least: 1, most: 2 },
  options: { json: { type: "boolean", help: "print one JSON object" }, ...cacheOption },
  notes: `
REF is what flashers call the bundle, their flasher_bundle; without it, what it was called when it was exported. While the
registry cannot be reached, REF is the imported bundle. Of several bundles, name one: oci-layout:DIR:TAG, oci-archive:FILE:TAG.

Example:
  jmp-agent bundle import /media/usb/bundles registry.example.com/boards/my-board:v1`,

  async run(options, [word = "", reference]) {
    const from = await parseCarried(word);
    const given = reference === undefined ? undefined : registryReference(reference);
    return await interruptible((signal) =>
      readingFrom(from, {}, signal, async (opened) => {
        const called = given ?? (await rememberedName(opened));
        if (called.digest !== undefined && called.digest !== opened.digest) {
          throw new AgentError("E_DIGEST", `${opened.name} is ${opened.digest}, not ${called.digest}`);
        }
        return await withCache(options["cache-dir"], signal, async (cache) => {
          const source = { ...opened.source, resolve: () => Promise.resolve(opened.digest) };
          const name = formatReference(called);
          const open = () => Promise.resolve(source);
          const bundle = await takeIntoCache(cache, { name, digest: called.digest, open });
          return showCached({ reference: name, ...bundle }, options.json);
        });
      }),
    );
  },
});

async function rememberedName(opened: OpenedPlace): Promise<RegistryReference> {
  const name = await opened.referenceOf();
  if (name !== undefined) return registryReference(name);
  throw new AgentError("E_USAGE", `${opened.name} does not tell what the bundle is called; name it as flashers do`, {
    hint: "jmp-agent bundle import DIR REF",
  });
}

function registryReference(text: string): RegistryReference {
  const place = parsePlace(text);
  if (place.kind === "registry") return place;
  throw new AgentError("E_USAGE", `${text} is no name in a registry; flashers read layouts where they lie`);
}
