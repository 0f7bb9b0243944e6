import { randomUUID } from "node:crypto";
import { open, rm } from "node:fs/promises";
import { join } from "node:path";
import { defineDriver } from "../../agent/driver/driver.ts";
import { AgentError } from "../../agent/driver/errors.ts";
import { unsupported } from "../../agent/driver/interface.ts";
import { streamIntoFile } from "../../agent/stream/files.ts";
import { flasher } from "../storage/interface.ts";
import { machineOf, partConfig } from "./config.ts";
import { loadCommandFor, loadCommands, type LoadCommand } from "./protocol.ts";

export default defineDriver({
  types: ["jumpstarter_driver_renode.driver.RenodeFlasher"],
  summary: "Firmware of a machine in Renode: loaded at its next start, and at once if it runs.",
  implements: flasher,
  config: partConfig,
  open(context) {
    const machine = machineOf(context, context.config.machine);
    return {
      methods: {
        /** @param wanted clients call it the target */
        async flash(call, source, wanted) {
          const given = requireLoadCommand(wanted);
          const path = join(machine.directory, `firmware-${randomUUID()}`);
          const file = await open(path, "wx+", 0o600);
          try {
            const bytes = await streamIntoFile(await call.source(source), file, { signal: call.signal });
            if (bytes === 0) throw new AgentError("E_INVALID", "the firmware is empty");
            const head = Buffer.alloc(4);
            await file.read(head, 0, head.length, 0);
            const load = given ?? loadCommandFor(head);
            if (load === "sysbus LoadBinary" && !context.config.load_address) {
              throw new AgentError("E_INVALID", "the firmware is no ELF file: set load_address in the exporter config");
            }
            await machine.flash(path, load, call.signal);
          } finally {
            await file.close();
            await rm(path, { force: true });
          }
        },
        dump: unsupported("dump is not supported for Renode targets"),
      },
    };
  },
});

/** @throws AgentError E_INVALID in the words of the Python driver */
function requireLoadCommand(wanted: string | null | undefined): LoadCommand | undefined {
  if (wanted === null || wanted === undefined) return undefined;
  const known = loadCommands.find((command) => command === wanted);
  if (known !== undefined) return known;
  const allowed = loadCommands.map((command) => `'${command}'`).join(", ");
  throw new AgentError("E_INVALID", `unsupported load_command '${wanted}', allowed: [${allowed}]`);
}
