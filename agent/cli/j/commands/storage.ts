import { Writable } from "node:stream";
import { opendal } from "../../../../boards/storage/interface.ts";
import { AgentError } from "../../../driver/errors.ts";
import type { ResourceHandle } from "../../../driver/resource.ts";
import { command, type Commands, type Run } from "../command.ts";
import { withSink, withSource } from "../files.ts";

const calls = ({ node, signal }: Run) => node.as(opendal, { signal });
const path = { help: "Path in the storage" };

/** Opens a remote file for one transfer and closes it in every case. */
async function withFile(
  run: Run,
  remote: string,
  mode: "rb" | "wb",
  use: (fd: string) => Promise<unknown>,
): Promise<void> {
  const fd = await calls(run).open(remote, mode);
  try {
    await use(fd);
  } catch (error) {
    // The transfer's own failure is what counts.
    await run.node
      .as(opendal)
      .file_close(fd)
      .catch(() => {});
    throw error;
  }
  await calls(run).file_close(fd);
}

const write = (run: Run, fd: string) => (handle: ResourceHandle) => calls(run).file_write(fd, handle);
const read = (run: Run, fd: string) => (handle: ResourceHandle) => calls(run).file_read(fd, handle);
/** Standard output as a sink that can be ended. */
function standardOutput(): Writable {
  return new Writable({ write: (chunk: Buffer, _encoding, done) => void process.stdout.write(chunk, done) });
}

const json = (value: unknown) => JSON.stringify(value, null, 2);

/** A presigned request, printed as JSON. */
function presign(of: "presign_stat" | "presign_read" | "presign_write", verb: string) {
  return command({
    help: `Make a URL that lets others ${verb} a path for a while`,
    args: { path },
    options: { expireSecond: { kind: "integer", required: true, help: "Seconds that the URL is good for" } },
    run: async (run, { path, expireSecond }) => run.print(json(await calls(run)[of](path, expireSecond))),
  });
}

export const commands: Commands = {
  "write-bytes": command({
    help: "Write stdin to a path",
    args: { path },
    run: async (run, { path }) => {
      await withFile(run, path, "wb", (fd) =>
        run.node.lendSource(process.stdin, write(run, fd), { signal: run.signal }),
      );
    },
  }),
  "read-bytes": command({
    help: "Write the content of a path to stdout",
    args: { path },
    run: async (run, { path }) => {
      await withFile(run, path, "rb", (fd) =>
        run.node.lendSink(standardOutput(), read(run, fd), { signal: run.signal }),
      );
    },
  }),
  "write-from-path": command({
    help: "Write a local file or URL to a path",
    args: { dst: path, src: { help: "Local file, or a http(s) URL that the exporter fetches" } },
    run: async (run, { dst, src }) => {
      await withFile(run, dst, "wb", (fd) => withSource(run, src, write(run, fd), { label: dst }));
    },
  }),
  "read-into-path": command({
    help: "Write the content of a path to a local file",
    args: { src: path, dst: { help: "Local file" } },
    run: async (run, { src, dst }) => {
      await withFile(run, src, "rb", (fd) => withSink(run, dst, read(run, fd), { label: src }));
    },
  }),
  stat: command({
    help: "Show what a path is",
    args: { path },
    run: async (run, { path }) => {
      const { mode, ...rest } = await calls(run).stat(path);
      run.print(json({ ...rest, mode: { is_file: mode.entry_is_file, is_dir: mode.entry_is_dir } }));
    },
  }),
  hash: command({
    help: "Show the hash of a file",
    args: { path },
    options: { algo: { kind: "text", choices: ["md5", "sha256"], default: "sha256", help: "Algorithm" } },
    run: async (run, { path, algo }) => run.print(await calls(run).hash(path, algo === "md5" ? "md5" : "sha256")),
  }),
  copy: command({
    help: "Copy a file",
    args: { source: path, target: path },
    run: async (run, { source, target }) => void (await calls(run).copy(source, target)),
  }),
  rename: command({
    help: "Rename a file",
    args: { source: path, target: path },
    run: async (run, { source, target }) => void (await calls(run).rename(source, target)),
  }),
  "remove-all": command({
    help: "Remove a path and everything below it",
    args: { path },
    run: async (run, { path }) => void (await calls(run).remove_all(path)),
  }),
  "create-dir": command({
    help: "Make a directory and its parents; the path ends in /",
    args: { path },
    run: async (run, { path }) => void (await calls(run).create_dir(path)),
  }),
  delete: command({
    help: "Delete a file or an empty directory",
    args: { path },
    run: async (run, { path }) => void (await calls(run).delete(path)),
  }),
  exists: command({
    help: "Succeed if a path exists, else fail",
    args: { path },
    run: async (run, { path }) => {
      if (!(await calls(run).exists(path))) throw new AgentError("E_FAILED", `path ${path} does not exist`);
    },
  }),
  list: command({
    help: "List a directory, or all names that begin so",
    args: { path },
    run: async (run, { path }) => {
      for await (const entry of calls(run).list(path)) run.print(entry);
    },
  }),
  scan: command({
    help: "List a directory with everything below it",
    args: { path },
    run: async (run, { path }) => {
      for await (const entry of calls(run).scan(path)) run.print(entry);
    },
  }),
  "presign-stat": presign("presign_stat", "look at"),
  "presign-read": presign("presign_read", "read"),
  "presign-write": presign("presign_write", "write"),
  capability: command({
    help: "Show what the storage can do",
    run: async (run) => run.print(json(await calls(run).capability())),
  }),
};
