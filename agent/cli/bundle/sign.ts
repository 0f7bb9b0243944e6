import { readFile } from "node:fs/promises";
import { readPrivateKey } from "../../../bundles/signature/keys.ts";
import { signImage } from "../../../bundles/signature/sign.ts";
import { AgentError } from "../../driver/errors.ts";
import { defineCommand } from "../command.ts";
import { interruptible } from "./interruptible.ts";
import { formatPlace, parsePlace, placesNote, readingFrom, sourceOptions, writingTo } from "./places.ts";
import { passphraseNote, passphraseOptions, readKeyPassphrase } from "./signing-key.ts";

export const sign = defineCommand({
  name: "bundle sign",
  summary: "Sign a bundle where it is, as cosign does, for exporters that require signatures.",
  words: { usage: "REF", least: 1, most: 1 },
  options: {
    key: { type: "string", value: "FILE", help: "PEM file with the private key (needed)" },
    ...passphraseOptions,
    as: {
      type: "string",
      value: "REPOSITORY",
      help: "repository that the signature is made for (that of REF; of a layout none)",
    },
    json: { type: "boolean", help: "print one JSON object" },
    ...sourceOptions,
  },
  notes: `
The signature goes beside the bundle, under a tag made of its digest (sha256-....sig). It says which digest was signed, and
for which repository. Who signs again changes nothing. cosign verify --key FILE.pub --insecure-ignore-tlog takes it, too.
${placesNote}
${passphraseNote}

Example:
  jmp-agent bundle sign registry.example.com/boards/my-board:v1 --key lab.key`,

  async run(options, [text = ""]) {
    const place = parsePlace(text);
    if (place.kind === "archive") {
      throw new AgentError("E_USAGE", `${formatPlace(place)}: an archive cannot be signed; push it to a layout first`);
    }
    if (options.key === undefined) throw new AgentError("E_USAGE", "--key is missing");
    const key = readPrivateKey(await readFile(options.key, "utf8"), options.key, await readKeyPassphrase(options));
    const repository = options.as ?? (place.kind === "registry" ? `${place.host}/${place.repository}` : "");
    const signed = await interruptible((signal) =>
      readingFrom(place, options, signal, ({ source, digest, name }) =>
        writingTo({ ...place, digest: undefined }, options, async (sink) => {
          const statement = { digest, repository };
          const done = await signImage({ source, sink, statement, key, name, signal });
          const shown = { reference: name, ...statement, tag: done.tag, signature: done.image, isNew: done.isNew };
          process.stdout.write(options.json ? `${JSON.stringify(shown)}\n` : describe(shown));
          return 0;
        }),
      ),
    );
    return signed;
  },
});

function describe(signed: { reference: string; digest: string; tag: string; isNew: boolean }): string {
  if (!signed.isNew) return `${signed.reference} (${signed.digest}) has been signed with this key already\n`;
  return `signed ${signed.reference} (${signed.digest}), under the tag ${signed.tag}\n`;
}
