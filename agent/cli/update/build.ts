import { readFile } from "node:fs/promises";
import { architectures, updateOf } from "../../../appliance/update/artifact.ts";
import { signImage } from "../../../bundles/signature/sign.ts";
import { readPrivateKey } from "../../../bundles/signature/keys.ts";
import { AgentError } from "../../driver/errors.ts";
import { copyShown, showCopy } from "../bundle/copy.ts";
import { interruptible } from "../bundle/interruptible.ts";
import { formatPlace, parseDestination, placesNote, registryOptions, writingTo } from "../bundle/places.ts";
import { passphraseNote, passphraseOptions, readKeyPassphrase } from "../bundle/signing-key.ts";
import { defineCommand } from "../command.ts";

export const build = defineCommand({
  name: "update build",
  summary: "Make an update of a root, a kernel and an initramfs, and sign it.",
  options: {
    root: { type: "string", value: "FILE", help: "the root, a squashfs (needed)" },
    kernel: { type: "string", value: "FILE", help: "the kernel, as EFI firmware starts it (needed)" },
    initrd: { type: "string", value: "FILE", help: "the initramfs (needed)" },
    version: { type: "string", value: "VERSION", help: "IMAGE_VERSION of the root's os-release (needed)" },
    arch: { type: "string", value: "ARCH", choices: architectures, help: `${architectures.join(", ")} (needed)` },
    "image-id": {
      type: "string",
      value: "ID",
      help: "IMAGE_ID of the systems that it may replace (jumpstarter-appliance)",
    },
    output: { type: "string", value: "FILE|oci:REF", help: "where the update goes: a file, or a registry (needed)" },
    key: { type: "string", value: "FILE", help: "PEM file with the private key that signs it (needed)" },
    ...passphraseOptions,
    json: { type: "boolean", help: "print one JSON object" },
    ...registryOptions,
  },
  notes: `
FILE becomes an archive of an OCI image layout, which a USB stick carries; the signature is in it. The same files make the same update.
'npm run image -- amd64 --keep FOLDER' leaves root, kernel and initramfs of an image in FOLDER.
${placesNote}
${passphraseNote}

Example:
  jmp-agent update build --root root.squashfs --kernel vmlinuz --initrd initrd --version 1.4.0 --arch arm64 \\
    --key lab.key --output appliance-1.4.0.tar`,

  async run(options) {
    const needed = (name: "root" | "kernel" | "initrd" | "version" | "arch" | "output" | "key"): string => {
      const value = options[name];
      if (value === undefined) throw new AgentError("E_USAGE", `--${name} is missing`);
      return value;
    };
    const files = { root: needed("root"), kernel: needed("kernel"), initrd: needed("initrd") };
    const imageId = options["image-id"] ?? "jumpstarter-appliance";
    const described = { version: needed("version"), architecture: needed("arch"), imageId };
    const output = needed("output");
    const place = parseDestination(output.startsWith("oci:") ? output.slice(4) : `oci-archive:${output}`);
    const key = readPrivateKey(await readFile(needed("key"), "utf8"), needed("key"), await readKeyPassphrase(options));
    return await interruptible(async (signal) => {
      const { source, digest } = await updateOf(files, described, signal);
      const repository = place.kind === "registry" ? `${place.host}/${place.repository}` : "";
      const report = await writingTo(place, options, async (sink, named) => {
        // The signature first: nobody finds an update without. An archive is complete when both are in it.
        const statement = { digest, repository };
        const unfinished = { ...sink, finish: () => Promise.resolve() };
        const { image } = await signImage({ source, sink: unfinished, statement, key, name: output, signal });
        const copied = await copyShown({ name: output, source, digest }, sink, named, signal);
        return { ...copied, signature: image };
      });
      return showCopy({ reference: formatPlace(place), ...report }, options.json);
    });
  },
});
