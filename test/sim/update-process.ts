// An update in a process of its own that can be killed. Prints each step, and stays for ever in one of them.
// usage: update-process.ts ARCHIVE KEY LAB STEP      LAB: JSON of an UpdateLab
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { applyUpdate } from "../../appliance/update/apply.ts";
import { UpdateRecords } from "../../appliance/update/records.ts";
import { LogBus } from "../../agent/driver/log.ts";
import { archiveSource } from "../../bundles/oci/archive.ts";
import { readPublicKey } from "../../bundles/signature/keys.ts";
import type { UpdateLab } from "./update-lab.ts";

const [, , archive = "", key = "", lab = "", hold = ""] = process.argv;
const { system, roots } = JSON.parse(lab) as UpdateLab;
const signal = new AbortController().signal;
const source = await archiveSource(archive, "latest");
const digest = await source.resolve(signal);
const host = {
  system,
  roots,
  records: new UpdateRecords(join(roots.root, "updates")),
  askExporters: () => Promise.resolve([]),
  log: new LogBus().logger({ source: "system", logger: "update" }),
};
const request = { source, digest, name: archive, keys: [readPublicKey(readFileSync(key, "utf8"), key)] };
await applyUpdate(
  {
    ...request,
    allowDowngrade: false,
    leases: "refuse",
    signal,
    onStep: async (step) => {
      console.log(step);
      // A timer keeps the process alive.
      if (step === hold) await new Promise((resolve) => setTimeout(resolve, 600_000));
    },
  },
  host,
);
await source.close();
