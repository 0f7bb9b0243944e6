import type { FileHandle } from "node:fs/promises";
import { pipeline } from "node:stream/promises";
import * as z from "zod";
import { defineDriver, type Call } from "../../agent/driver/driver.ts";
import type { CheckedResourceHandle } from "../../agent/driver/resource.ts";
import { fileIntoStream, openNamelessFile, reopen, streamIntoFile } from "../../agent/stream/files.ts";
import { storageMux } from "./interface.ts";

export const mockConfig = z.strictObject({
  file: z.unknown().optional().describe("ignored; the Python exporter takes it by accident"),
});

/** A storage mux without hardware: keeps the last image written in a temporary file until the lease ends. */
export default defineDriver({
  types: ["jumpstarter_driver_opendal.driver.MockStorageMux", "jumpstarter.drivers.storage.driver.MockStorageMux"],
  summary: "Storage mux without hardware: keeps one image in a temporary file.",
  implements: storageMux,
  config: mockConfig,
  open: openMockMux,
});

export function openMockMux() {
  let image: FileHandle | undefined;

  const replace = async (next: FileHandle | undefined) => {
    const last = image;
    image = next;
    await last?.close();
  };

  return {
    methods: {
      host: () => {},
      dut: () => {},
      off: () => {},
      async write(call: Call, source: CheckedResourceHandle) {
        const bytes = await call.source(source);
        await replace(undefined);
        const next = await openNamelessFile();
        try {
          await streamIntoFile(bytes, next, { signal: call.signal });
        } catch (error) {
          await next.close();
          throw error;
        }
        await replace(next);
      },
      async read(call: Call, target: CheckedResourceHandle) {
        const sink = await call.sink(target);
        if (image === undefined) {
          await pipeline([], sink, { signal: call.signal });
          return;
        }
        const reader = await reopen(image, "r");
        try {
          await fileIntoStream(reader, sink, { signal: call.signal });
        } finally {
          await reader.close();
        }
      },
    },
    release: () => replace(undefined),
    close: () => replace(undefined),
  };
}
