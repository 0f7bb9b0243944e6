import { stat } from "node:fs/promises";
import { applyUpdate } from "../../../appliance/update/apply.ts";
import { waitForLeases } from "../../../appliance/update/leases.ts";
import { readTrustedKey, readTrustedKeys, keyDirectories } from "../../../appliance/update/trusted-keys.ts";
import { AgentError, isSystemError } from "../../driver/errors.ts";
import { defineCommand } from "../command.ts";
import { TransferProgress } from "../transfer-progress.ts";
import { interruptible } from "../bundle/interruptible.ts";
import { parsePlace, readingFrom, sourceOptions, type Place } from "../bundle/places.ts";
import { leaseRule, restartHost, restartOptions, thisHost } from "./host.ts";

export const apply = defineCommand({
  name: "update",
  summary: "Write an update to the slot that does not run, and start it on trial.",
  words: { usage: "FILE|oci:REF", least: 1, most: 1 },
  options: {
    key: {
      type: "string",
      value: "FILE",
      multiple: true,
      help: "PEM file with a public key that signs updates, in place of those of the image",
    },
    "allow-downgrade": { type: "boolean", help: "take a version that is older than the one that runs, too" },
    ...restartOptions,
    ...sourceOptions,
  },
  notes: `
FILE is an archive or a directory (an OCI image layout) that 'jmp-agent update build' has made; REF is an image in a registry.
An update must be signed by a key in ${keyDirectories.join(" or ")}. It is written
and read back while the exporters go on working; the new start comes only when none is leased.

The new system is confirmed by jumpstarter-agent-confirm.service when the exporters that were registered are registered again. A system
that does not get there, or does not come up in three starts, is given up, and the old one runs again.

Examples:
  jmp-agent update /media/usb/appliance-1.4.0.tar
  jmp-agent update oci:registry.example.com/lab/appliance:1.4.0 --when-free`,

  async run(options, [word = ""]) {
    const leases = leaseRule(options);
    const place = await parseUpdatePlace(word);
    const host = await thisHost();
    const keys =
      options.key === undefined ? await readTrustedKeys() : await Promise.all(options.key.map(readTrustedKey));
    return await interruptible((signal) =>
      readingFrom(place, options, signal, async ({ name, source, digest }) => {
        const screen = new TransferProgress();
        let record;
        try {
          record = await applyUpdate(
            {
              ...{ name, source, digest, keys, leases, signal },
              allowDowngrade: options["allow-downgrade"] === true,
              onProgress: ({ phase, bytes, totalBytes, remainingMs }) =>
                screen.show(phase, { bytes, total_bytes: totalBytes ?? null, remaining_ms: remainingMs ?? null }),
            },
            host,
          );
        } finally {
          screen.end();
        }
        process.stdout.write(`version ${record.to?.version} is in slot ${record.to?.slot}; the next start tries it\n`);
        if (options["no-reboot"]) return 0;
        // Writing took its time, in which a lease may have begun.
        await waitForLeases(leases, host.askExporters, { signal, log: host.log }).catch((error: unknown) => {
          if (!(error instanceof AgentError) || error.code !== "E_NOT_READY") throw error;
          throw new AgentError("E_NOT_READY", `the host is not started again: ${error.message}`, { hint: error.hint });
        });
        await restartHost(signal);
        return 0;
      }),
    );
  },
});

/** @throws AgentError E_USAGE */
async function parseUpdatePlace(word: string): Promise<Place> {
  if (word.startsWith("oci:")) return parsePlace(word.slice("oci:".length));
  if (/^oci-(layout|archive):/.test(word)) return parsePlace(word);
  try {
    return parsePlace(`${(await stat(word)).isDirectory() ? "oci-layout" : "oci-archive"}:${word}`);
  } catch (error) {
    if (!isSystemError(error) || error.code !== "ENOENT") throw error;
    throw new AgentError("E_USAGE", `there is no file ${word}`, {
      hint: "an update in a registry is named oci:REF",
      cause: error,
    });
  }
}
