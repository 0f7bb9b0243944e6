import { otherSlot } from "../../../appliance/slots/boot-state.ts";
import { readBootStateOf } from "../../../appliance/update/host.ts";
import type { UpdateRecord } from "../../../appliance/update/records.ts";
import { interruptible } from "../bundle/interruptible.ts";
import { defineCommand, table } from "../command.ts";
import { thisHost } from "./host.ts";

export const status = defineCommand({
  name: "update status",
  summary: "Show both systems of the appliance, and what became of the last update.",
  options: { json: { type: "boolean", help: "as one JSON object" } },

  async run({ json }) {
    const host = await thisHost();
    return await interruptible(async (signal) => {
      const { slot, version, startedAs } = host.system;
      const { state, isDamaged } = await readBootStateOf(host, signal);
      const last = await host.records.last();
      const other = otherSlot(slot);
      const otherVersion = versionIn(other, last);
      const slots = {
        [slot]: { version, role: state?.trial === slot ? "on trial" : "confirmed", runs: true, startedAs },
        [other]: {
          version: otherVersion ?? null,
          role: state?.invalid === other ? "being written" : state?.trial === other ? "to be tried" : "spare",
          runs: false,
        },
      };
      if (json) {
        process.stdout.write(
          `${JSON.stringify({ slots, bootState: state ?? null, isDamaged, last: last ?? null }, undefined, 2)}\n`,
        );
        return 0;
      }
      const rows = (["a", "b"] as const).map((name) => {
        const is = slots[name];
        const words = [is?.version ?? "unknown version", is?.role, is?.runs ? `runs (started as ${startedAs})` : ""];
        return [`slot ${name}`, words.filter((word) => word).join(", ")] as const;
      });
      const lines = [table(rows, 6)];
      if (isDamaged) lines.push("the boot state is damaged; the next start mends it");
      if (last !== undefined) lines.push(describe(last));
      process.stdout.write(`${lines.join("\n")}\n`);
      return 0;
    });
  },
});

function versionIn(slot: string, last: UpdateRecord | undefined): string | undefined {
  if (last === undefined) return undefined;
  if (last.from.slot === slot) return last.from.version;
  return last.to?.slot === slot && last.state !== "refused" ? last.to.version : undefined;
}

const verdicts: Record<UpdateRecord["state"], string> = {
  writing: "is being written, or was cut off",
  trial: "is written, and on trial",
  confirmed: "is confirmed",
  "rolled-back": "was rolled back",
  refused: "was refused",
  failed: "has failed",
};

function describe({ kind, to, state, startedAt, reason }: UpdateRecord): string {
  const why = reason === undefined ? "" : `: ${reason}`;
  return `the ${kind} of ${startedAt}${to === undefined ? "" : ` to ${to.version}`} ${verdicts[state]}${why}`;
}
