import { totalmem } from "node:os";
import { AgentError } from "../../../agent/driver/errors.ts";
import type { Metadata } from "../interface.ts";
import { directoryKey, type StorePath } from "./path.ts";
import { listKeys } from "./keys.ts";
import { capabilityOf, isADirectory, notFound, plainMetadata, type Reader, type Store, type Writer } from "./store.ts";

const capability = capabilityOf({
  stat: true,
  read: true,
  write: true,
  write_can_multi: true,
  write_can_empty: true,
  create_dir: true,
  delete: true,
  list: true,
  list_with_recursive: true,
  blocking: true,
});

interface MemoryFile {
  chunks: Buffer[];
  sizeBytes: number;
}

/** Files in this process, at most a quarter of the host's memory; forgotten when the lease ends. */
export function openMemoryStore(limitBytes = Math.floor(totalmem() / 4)): Store {
  // Directories are keys that end in a slash, with nothing in them.
  const files = new Map<string, MemoryFile>();
  let usedBytes = 0;

  const remove = (key: string) => {
    usedBytes -= files.get(key)?.sizeBytes ?? 0;
    files.delete(key);
  };
  const hasBelow = (path: StorePath) => {
    const prefix = directoryKey(path);
    return path.segments.length === 0 || [...files.keys()].some((key) => key.startsWith(prefix));
  };

  return {
    capability,

    async stat(path): Promise<Metadata> {
      const file = path.isDirectory ? undefined : files.get(path.text);
      if (file !== undefined) return plainMetadata("file", file.sizeBytes);
      if (hasBelow(path)) return plainMetadata("directory", 0);
      throw notFound(path);
    },

    async openReader(path): Promise<Reader> {
      if (path.isDirectory) throw isADirectory(path);
      const file = files.get(path.text);
      if (file === undefined) throw notFound(path);
      const { sizeBytes } = file;
      // A file that is replaced later gets a new list: this one stays what it is, or grows at its end.
      const chunks = file.chunks.slice();
      return {
        sizeBytes,
        async *chunks(start) {
          let at = 0;
          for (const chunk of chunks) {
            if (at + chunk.length > start) yield chunk.subarray(Math.max(0, start - at));
            at += chunk.length;
          }
        },
        close: async () => {},
      };
    },

    async openWriter(path): Promise<Writer> {
      if (path.isDirectory || hasBelow({ ...path, isDirectory: true })) throw isADirectory(path);
      remove(path.text);
      const file: MemoryFile = { chunks: [], sizeBytes: 0 };
      files.set(path.text, file);
      return {
        async write(batch) {
          const sizeBytes = batch.reduce((sum, chunk) => sum + chunk.length, 0);
          if (files.get(path.text) !== file) throw notFound(path);
          if (usedBytes + sizeBytes > limitBytes) {
            throw new AgentError("E_LIMIT", `${path.text}: the memory store is limited to ${limitBytes} bytes`);
          }
          usedBytes += sizeBytes;
          file.sizeBytes += sizeBytes;
          // One copy: a chunk may be a small part of a large receive buffer, which it would keep alive.
          file.chunks.push(Buffer.concat(batch));
        },
        close: async () => {},
        abort: async () => {},
      };
    },

    async delete(path) {
      remove(path.text);
    },

    async removeAll(path) {
      const prefix = directoryKey(path);
      if (!path.isDirectory) remove(path.text);
      for (const key of [...files.keys()]) if (key.startsWith(prefix)) remove(key);
    },

    async createDirectory(path) {
      files.set(path.text, { chunks: [], sizeBytes: 0 });
    },

    async *list(path, recursive) {
      yield* listKeys([...files.keys()], path, recursive);
    },

    async release() {
      files.clear();
      usedBytes = 0;
    },
  };
}
