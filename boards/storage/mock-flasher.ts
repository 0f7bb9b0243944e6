import type { FileHandle } from "node:fs/promises";
import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import { AgentError } from "../../agent/driver/errors.ts";
import { fileIntoStream, openNamelessFile, reopen, streamIntoFile } from "../../agent/stream/files.ts";
import { flasher } from "./interface.ts";

/** Each target costs an open file. */
const maxTargets = 64;

/** A board made of files: what is flashed to a target can be dumped again until the lease ends. */
export default defineDriver({
  types: ["jumpstarter_driver_opendal.driver.MockFlasher"],
  summary: "Flasher without hardware: keeps one image per target in a temporary file.",
  implements: flasher,
  config: z.strictObject({
    _tempdir: z.unknown().optional().describe("ignored; the Python exporter takes it by accident"),
  }),
  open() {
    // Nameless files, so that a target's name is never a path and nothing stays behind after a crash.
    const images = new Map<string, FileHandle>();

    const drop = async (target: string) => {
      const image = images.get(target);
      images.delete(target);
      await image?.close();
    };
    const release = async () => {
      for (const target of [...images.keys()]) await drop(target);
    };

    return {
      methods: {
        async flash(call, source, target) {
          const name = target ?? "default";
          const bytes = await call.source(source);
          await drop(name);
          if (images.size >= maxTargets) {
            throw new AgentError("E_LIMIT", `cannot flash ${name}: ${maxTargets} targets hold an image already`);
          }
          const image = await openNamelessFile();
          try {
            await streamIntoFile(bytes, image, { signal: call.signal });
          } catch (error) {
            // Half an image must not look like one.
            await image.close();
            throw error;
          }
          await drop(name);
          images.set(name, image);
        },
        async dump(call, target, source) {
          const name = source ?? "default";
          const image = images.get(name);
          if (image === undefined) {
            throw new AgentError("E_IO", `[Errno 2] No such file or directory: '${name}'`);
          }
          const reader = await reopen(image, "r");
          try {
            await fileIntoStream(reader, await call.sink(target), { signal: call.signal });
          } finally {
            await reader.close();
          }
        },
      },
      release,
      close: release,
    };
  },
});
