import { open } from "node:fs/promises";
import { defineDriver, type Call } from "../../agent/driver/driver.ts";
import { AgentError } from "../../agent/driver/errors.ts";
import type { ResourceHandle } from "../../agent/driver/resource.ts";
import { bytesOf } from "../../agent/stream/byte-source.ts";
import { fileIntoStream, writeFully } from "../../agent/stream/files.ts";
import { openImage } from "../storage/image/open-image.ts";
import { Fls, type Login } from "./fls.ts";
import { qemuFlasher } from "./interface.ts";
import type { QemuMachine } from "./machine.ts";
import { machineOf, partConfig } from "./parts.ts";
import { partitionOf } from "./work.ts";

/** Of one read and write of what is flashed. */
const writtenBytes = 1024 * 1024;

export default defineDriver({
  types: ["jumpstarter_driver_qemu.driver.QemuFlasher"],
  summary: "Takes the images that a Qemu starts from.",
  implements: qemuFlasher,
  config: partConfig,
  client: ({ config }) =>
    config.legacy_flasher_client ? "jumpstarter_driver_opendal.client.FlasherClient" : undefined,
  open(context) {
    const { log } = context;
    const machine = machineOf(context, context.config);
    const fls = new Fls(context.config.config, context.log);

    const flashOci = async function* (call: Call, url: string, name: string | null | undefined, login: Login) {
      // Refused before anything is fetched.
      const partition = partitionOf(name);
      fls.check(url, login);
      const image = await machine.work.stage(partition);
      try {
        yield* fls.run(url, image.path, login, call.signal);
        await image.commit();
      } finally {
        await image.drop();
      }
      tell(machine, partition);
    };

    const tell = ({ isOn }: QemuMachine, partition: string) =>
      log.info(
        `flashed ${partition}${isOn ? "; the running machine starts from it when it is switched on again" : ""}`,
      );

    return {
      methods: {
        async flash(call, source, name) {
          if (typeof source === "string") {
            for await (const [stdout, stderr] of flashOci(call, source, name, {})) {
              if (stdout !== "" || stderr !== "") log.info((stdout || stderr).trimEnd());
            }
            return;
          }
          const partition = partitionOf(name);
          const image = await machine.work.stage(partition);
          try {
            await receive(call, source, image.path);
            await image.commit();
          } finally {
            await image.drop();
          }
          tell(machine, partition);
        },
        flash_oci: (call, url, partition, username, password) => flashOci(call, url, partition, { username, password }),
        async dump(call, target, name) {
          const partition = partitionOf(name);
          const found = await machine.work.find(partition);
          if (found === undefined) throw new AgentError("E_IO", `[Errno 2] No such file or directory: '${partition}'`);
          if (machine.isOn) log.warn("dumped while the machine runs: what it writes meanwhile may be there in part");
          const file = await open(found.path, "r");
          try {
            await fileIntoStream(file, await call.sink(target), { signal: call.signal });
          } finally {
            await file.close();
          }
        },
      },
      close: () => fls.close(),
    };
  },
});

/** Decoded by its first bytes, whatever its client calls it. */
async function receive(call: Call, source: ResourceHandle, path: string): Promise<void> {
  const image = await openImage(bytesOf(await call.source(source)), {});
  const memory = Buffer.alloc(writtenBytes);
  try {
    const file = await open(path, "wx", 0o600);
    try {
      for await (const extent of image.extents) {
        for (let at = extent.at, count; (count = await extent.read(memory)) > 0;) {
          call.signal.throwIfAborted();
          at = await writeFully(file, [memory.subarray(0, count)], at);
        }
      }
      // It may end with a hole.
      await file.truncate(image.bytes());
    } finally {
      await file.close();
    }
  } finally {
    await image.close();
  }
}
