import { AgentError, isSystemError, toAgentError } from "../../../agent/driver/errors.ts";
import type { Capability, Metadata, PresignedRequest } from "../interface.ts";
import type { StorePath } from "./path.ts";

/** A file opened for reading; its size is that at opening. */
export interface Reader {
  readonly sizeBytes: number;
  /** The bytes from `start` to the end, in large chunks. */
  chunks(start: number, signal: AbortSignal): AsyncIterable<Buffer>;
  close(): Promise<void>;
}

/** A file being written, front to back. */
export interface Writer {
  /** Appends; called again only when the last call has ended. */
  write(batch: readonly Buffer[], signal: AbortSignal): Promise<void>;
  /** Makes what was written the file's content. */
  close(): Promise<void>;
  /** Gives up; leaves nothing behind that was not visible before. */
  abort(): Promise<void>;
}

export type Presignable = "stat" | "read" | "write";

/**
 * Where files live. Operations that a store lacks are left out. A path that does not exist
 * fails with {@link notFound}; system errors may come through as they are.
 */
export interface Store {
  readonly capability: Capability;
  stat(path: StorePath): Promise<Metadata>;
  openReader(path: StorePath): Promise<Reader>;
  /** Makes missing parents; the file is there, and empty, from now on where the store can do that. */
  openWriter?(path: StorePath): Promise<Writer>;
  /** Replaces a file at `target`; makes missing parents. */
  copy?(source: StorePath, target: StorePath): Promise<void>;
  rename?(source: StorePath, target: StorePath): Promise<void>;
  /** A file or an empty directory; what does not exist is deleted already. */
  delete?(path: StorePath): Promise<void>;
  /** The path and all below it; of the root only what is below. */
  removeAll?(path: StorePath): Promise<void>;
  createDirectory?(path: StorePath): Promise<void>;
  /**
   * Names below a directory (the directory itself first), or the names that start with a path that is
   * not spelled as a directory. What does not exist has no names.
   */
  list?(path: StorePath, recursive: boolean): AsyncIterable<string>;
  presign?(what: Presignable, path: StorePath, expireSeconds: number): Promise<PresignedRequest>;
  /** At lease end. */
  release?(): Promise<void>;
  close?(): Promise<void>;
}

const none: Capability = {
  stat: false,
  stat_with_if_match: false,
  stat_with_if_none_match: false,
  read: false,
  read_with_if_match: false,
  read_with_if_none_match: false,
  read_with_override_cache_control: false,
  read_with_override_content_disposition: false,
  read_with_override_content_type: false,
  write: false,
  write_can_multi: false,
  write_can_empty: false,
  write_can_append: false,
  write_with_content_type: false,
  write_with_content_disposition: false,
  write_with_cache_control: false,
  write_multi_max_size: null,
  write_multi_min_size: null,
  write_total_max_size: null,
  create_dir: false,
  delete: false,
  copy: false,
  rename: false,
  list: false,
  list_with_limit: false,
  list_with_start_after: false,
  list_with_recursive: false,
  presign: false,
  presign_read: false,
  presign_stat: false,
  presign_write: false,
  shared: false,
  blocking: false,
};

/** A complete capability record; what is not named is absent. */
export function capabilityOf(given: Partial<Capability>): Capability {
  return { ...none, ...given };
}

/** What `stat` answers where a store knows no more than size and kind. */
export function plainMetadata(kind: "file" | "directory", sizeBytes: number): Metadata {
  return {
    content_disposition: null,
    content_length: sizeBytes,
    content_md5: null,
    content_type: null,
    etag: null,
    mode: { entry_is_file: kind === "file", entry_is_dir: kind === "directory" },
  };
}

// All of these are "failed" (UNKNOWN to clients): NOT_FOUND and UNIMPLEMENTED would say that there is no such method.

class NotFound extends AgentError {}

export function notFound(path: StorePath): AgentError {
  return new NotFound("E_FAILED", `NotFound: no such file or directory: ${path.text}`);
}

export function isNotFound(error: unknown): boolean {
  return error instanceof NotFound || (isSystemError(error) && (error.code === "ENOENT" || error.code === "ENOTDIR"));
}

export function isADirectory(path: StorePath): AgentError {
  return new AgentError("E_FAILED", `IsADirectory: ${path.text} is a directory`);
}

export function notADirectory(path: StorePath, why: string): AgentError {
  return new AgentError("E_FAILED", `NotADirectory: ${path.text} ${why}`);
}

export function notSupported(scheme: string, operation: string): AgentError {
  return new AgentError("E_FAILED", `Unsupported: scheme ${scheme} has no ${operation}`);
}

const systemErrors: Readonly<Record<string, string>> = {
  ENOENT: "NotFound: no such file or directory",
  ENOTDIR: "NotADirectory: a part of the path is not a directory",
  EISDIR: "IsADirectory: the path is a directory",
  ENOTEMPTY: "the directory is not empty",
  EACCES: "PermissionDenied: the exporter may not do that",
  EPERM: "PermissionDenied: the exporter may not do that",
};

/**
 * The error of an operation on a path, as clients shall see it: with the path they know and never
 * with the exporter's own.
 */
export function pathError(thrown: unknown, path: StorePath): AgentError {
  if (!isSystemError(thrown)) return toAgentError(thrown);
  if (isNotFound(thrown) && thrown.code === "ENOENT") return notFound(path);
  const text = systemErrors[thrown.code] ?? `Unexpected: ${thrown.code}`;
  return new AgentError("E_FAILED", `${text}: ${path.text}`, { cause: thrown });
}
