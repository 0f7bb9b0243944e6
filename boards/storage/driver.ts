import { createHash } from "node:crypto";
import { pipeline } from "node:stream/promises";
import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import { AgentError } from "../../agent/driver/errors.ts";
import { pumpBatches } from "../../agent/stream/files.ts";
import { CreatedPaths } from "./created-paths.ts";
import { opendal } from "./interface.ts";
import { OpenFiles } from "./open-files.ts";
import { openStore, requiredOptions } from "./store/open-store.ts";
import { parsePath, type StorePath } from "./store/path.ts";
import { isADirectory, isNotFound, notADirectory, notSupported, pathError, type Presignable } from "./store/store.ts";

const config = z
  .strictObject({
    scheme: z.string().min(1).describe("fs, memory, http, s3, or another service of OpenDAL"),
    kwargs: z
      .record(z.string(), z.union([z.string(), z.number(), z.boolean()]).transform(String))
      .nullish()
      .transform((options) => options ?? {})
      .describe("options of the scheme: fs has root, http endpoint, s3 bucket, region, endpoint, access_key_id, …"),
    remove_created_on_close: z
      .boolean()
      .default(false)
      .describe("at the end of a lease, remove the files and directories that it created (fs only)"),
  })
  .superRefine(({ scheme, kwargs }, context) => {
    for (const option of requiredOptions[scheme] ?? []) {
      if (kwargs[option]) continue;
      context.addIssue({ code: "custom", path: ["kwargs", option], message: `is required for scheme ${scheme}` });
    }
  });

/** Files of a store that clients read, write and list; the boot servers and flashers hand them on to boards. */
export default defineDriver({
  types: ["jumpstarter_driver_opendal.driver.Opendal"],
  summary: "Files and directories: of the host (fs), in memory, behind HTTP, in S3, or any other OpenDAL service.",
  implements: opendal,
  config,
  async open({ config: { scheme, kwargs, remove_created_on_close: removesCreated }, log }) {
    const created = new CreatedPaths();
    const store = await openStore(scheme, kwargs, (directory) => created.addRemovable(directory));
    const files = new OpenFiles();
    if (removesCreated && scheme !== "fs") {
      log.warn(`remove_created_on_close works with scheme fs only, not with ${scheme}`);
    }

    /** Runs an operation on a path; its failures name the path as the client spelled it. */
    const on = async <T>(path: StorePath, work: () => Promise<T>): Promise<T> => {
      try {
        return await work();
      } catch (error) {
        throw pathError(error, path);
      }
    };

    /** An operation that the store may lack. */
    const has = <K extends "openWriter" | "copy" | "rename" | "delete" | "removeAll" | "createDirectory" | "list">(
      operation: K,
    ): NonNullable<(typeof store)[K]> => {
      const found = store[operation];
      if (found === undefined) throw notSupported(scheme, operation);
      return found.bind(store) as NonNullable<(typeof store)[K]>;
    };

    const twoFiles = (source: string, target: string): [StorePath, StorePath] => {
      const from = parsePath(source);
      const to = parsePath(target);
      for (const path of [from, to]) if (path.isDirectory) throw isADirectory(path);
      if (from.text === to.text) throw new AgentError("E_FAILED", `IsSameFile: ${from.text} onto itself`);
      return [from, to];
    };

    const entries = async function* (given: string, recursive: boolean) {
      const path = parsePath(given);
      try {
        yield* has("list")(path, recursive);
      } catch (error) {
        throw pathError(error, path);
      }
    };

    const presign = async (what: Presignable, given: string, expireSeconds: number) => {
      const path = parsePath(given);
      if (store.presign === undefined) throw notSupported(scheme, "presign");
      return store.presign(what, path, expireSeconds);
    };

    const release = async () => {
      try {
        await files.closeAll();
      } finally {
        if (removesCreated && scheme === "fs") await created.removeFrom(store, log);
        created.forget();
        await store.release?.();
      }
    };

    return {
      methods: {
        async open(_call, given, mode) {
          const path = parsePath(given);
          return on(path, () =>
            files.add(async () => {
              if (mode === "rb") return { mode, reader: await store.openReader(path), position: 0 };
              const writer = await has("openWriter")(path);
              created.addFile(path);
              return { mode, writer, isBroken: false };
            }),
          );
        },

        file_write: (call, fd, handle) =>
          files.use(fd, call.signal, async (file, signal) => {
            const source = await call.source(handle);
            if (file?.mode !== "wb") throw new AgentError("E_IO", "the file is not open for writing");
            try {
              await pumpBatches(source, (batch) => file.writer.write(batch, signal), { signal });
            } catch (error) {
              file.isBroken = true;
              throw error;
            }
          }),

        file_read: (call, fd, handle) =>
          files.use(fd, call.signal, async (file, signal) => {
            const sink = await call.sink(handle);
            const rest = async function* () {
              if (file?.mode !== "rb") return;
              for await (const chunk of file.reader.chunks(file.position, signal)) {
                file.position += chunk.length;
                yield chunk;
              }
            };
            await pipeline(rest, sink, { signal });
          }),

        file_seek: (call, fd, offset, whence) =>
          files.use(fd, call.signal, async (file) => {
            if (file?.mode !== "rb") throw new AgentError("E_IO", "the file is not open for reading");
            const from = [0, file.position, file.reader.sizeBytes][whence] ?? 0;
            if (from + offset < 0) throw new AgentError("E_INVALID", `cannot seek to ${from + offset}`);
            file.position = from + offset;
            return file.position;
          }),

        file_tell: (call, fd) =>
          files.use(fd, call.signal, async (file) => {
            if (file?.mode !== "rb") throw new AgentError("E_IO", "the file is not open for reading");
            return file.position;
          }),

        file_close: (_call, fd) => files.close(fd),
        file_closed: (_call, fd) => files.get(fd) === undefined,
        file_readable: (_call, fd) => files.get(fd)?.mode === "rb",
        file_seekable: (_call, fd) => files.get(fd)?.mode === "rb",
        file_writable: (_call, fd) => files.get(fd)?.mode === "wb",

        async stat(_call, given) {
          const path = parsePath(given);
          return on(path, () => store.stat(path));
        },

        async hash(call, given, algorithm) {
          const path = parsePath(given);
          return on(path, async () => {
            const reader = await store.openReader(path);
            try {
              const hash = createHash(algorithm);
              for await (const chunk of reader.chunks(0, call.signal)) {
                call.signal.throwIfAborted();
                hash.update(chunk);
              }
              return hash.digest("hex");
            } finally {
              await reader.close();
            }
          });
        },

        async copy(_call, source, target) {
          const [from, to] = twoFiles(source, target);
          await on(from, () => has("copy")(from, to));
          created.addFile(to);
        },

        async rename(_call, source, target) {
          const [from, to] = twoFiles(source, target);
          await on(from, () => has("rename")(from, to));
          created.moved(from, to);
        },

        async remove_all(_call, given) {
          const path = parsePath(given);
          await on(path, () => has("removeAll")(path));
          created.removed(path);
        },

        async create_dir(_call, given) {
          const path = parsePath(given);
          if (!path.isDirectory) throw notADirectory(path, "should end with `/`, the path trying to create");
          await on(path, () => has("createDirectory")(path));
          created.addReported(path.text);
        },

        async delete(_call, given) {
          const path = parsePath(given);
          await on(path, () => has("delete")(path));
          created.removed(path);
        },

        async exists(_call, given) {
          const path = parsePath(given);
          try {
            await store.stat(path);
            return true;
          } catch (error) {
            if (isNotFound(error)) return false;
            throw pathError(error, path);
          }
        },

        list: (_call, given) => entries(given, false),
        scan: (_call, given) => entries(given, true),
        presign_stat: (_call, path, expireSeconds) => presign("stat", path, expireSeconds),
        presign_read: (_call, path, expireSeconds) => presign("read", path, expireSeconds),
        presign_write: (_call, path, expireSeconds) => presign("write", path, expireSeconds),
        capability: () => store.capability,
        get_created_resources: () => created.reported,

        register_path: (_call, given) => created.register(given),
      },
      release,
      async close() {
        try {
          await release();
        } finally {
          await store.close?.();
        }
      },
    };
  },
});
