import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { imageStorageMux, storageMux, type ImageOptions } from "../../../../boards/storage/interface.ts";
import { AgentError, toAgentError } from "../../../driver/errors.ts";
import type { FlashReceipt } from "../../../driver/receipt.ts";
import type { ResourceHandle } from "../../../driver/resource.ts";
import { bmapBeside } from "../../beside.ts";
import { dumpForm } from "../../dump-file.ts";
import { TransferProgress } from "../../transfer-progress.ts";
import { command, type Commands, type Run } from "../command.ts";
import { withSink, withSource } from "../files.ts";
import { compression, encodingOf, parseTarget } from "./flasher.ts";

const mux = ({ node, signal }: Run) => node.as(storageMux, { signal });
const imageMux = ({ node, signal }: Run) => node.as(imageStorageMux, { signal });

export const muxCommands: Commands = {
  host: command({ help: "Connect storage to host", run: async (run) => void (await mux(run).host()) }),
  dut: command({ help: "Connect storage to dut", run: async (run) => void (await mux(run).dut()) }),
  off: command({ help: "Disconnect storage", run: async (run) => void (await mux(run).off()) }),
  "write-local-file": command({
    help: "Write a local file to the storage device",
    args: { file: { help: "Local file" } },
    run: async (run, { file }) => {
      await withSource(run, file, (handle) => mux(run).write(handle), { label: "write" });
    },
  }),
  "read-local-file": command({
    help: "Read the storage device into a local file",
    args: { file: { help: "Local file to write" } },
    run: async (run, { file }) => {
      await withSink(run, file, (handle) => mux(run).read(handle), { label: "read" });
    },
  }),
};

export const muxFlasherCommands: Commands = {
  flash: command({
    help: "Flash image to DUT",
    args: { file: { optional: true, help: "Local file, or a http(s) URL that the exporter fetches" } },
    options: {
      target: { kind: "text", short: "t", many: true, help: "name:file" },
      compression,
      bmap: { kind: "text", help: "Block map of the image: a local file, or auto for the one beside it" },
      skipUnchanged: { kind: "flag", help: "Write only what differs from what is on the storage" },
      verify: { kind: "flag", negatable: true, default: true, help: "Read back what was written" },
    },
    run: async (run, { file, target, compression, bmap, skipUnchanged, verify }) => {
      for (const { target: name } of target.map(parseTarget)) refuseTarget(name);
      if (file === undefined) throw new AgentError("E_USAGE", "FILE argument is required unless --target/-t is used");
      const options = { label: "flash", encoding: encodingOf(compression) };
      const isPlain = bmap === undefined && !skipUnchanged && verify;
      await onHost(run, async () => {
        // Exporters in Python have no other method.
        if (isPlain) return await withSource(run, file, (handle) => mux(run).write(handle), options);
        const image = { name: file, skip_unchanged: skipUnchanged, verify };
        return await withSource(
          { ...run, quiet: true },
          file,
          (handle) => writeImage(run, file, handle, bmap, image),
          options,
        );
      });
    },
  }),
  dump: command({
    help: "Dump image from DUT to file",
    args: { file: { help: "Local file to write; .gz, .xz, .bz2, .zst and .simg tell its form" } },
    options: { target: { kind: "text", help: "Name of the target" }, compression },
    run: async (run, { file, target, compression }) => {
      if (target !== undefined) refuseTarget(target);
      const { format, encoding } = dumpForm(file);
      const options = { label: "dump", encoding: encodingOf(compression) ?? encoding ?? undefined };
      const read = async (handle: ResourceHandle) => {
        if (format === "raw") return await mux(run).read(handle);
        for await (const _ of imageMux(run).read_image(handle, { format }));
      };
      await onHost(run, () => withSink(run, file, read, options));
    },
  }),
  ...muxCommands,
};

/** Writes with what only our muxes can do, and shows how the exporter gets on. */
async function writeImage(
  run: Run,
  file: string,
  handle: ResourceHandle,
  bmap: string | undefined,
  options: ImageOptions,
): Promise<void> {
  const map = bmap === "auto" ? await bmapBeside(file) : bmap;
  if (bmap === "auto" && map === undefined) throw new AgentError("E_USAGE", `there is no block map beside ${file}`);
  const { size } = await stat(file).catch(() => ({ size: undefined }));
  const progress = new TransferProgress();
  let receipt: FlashReceipt | undefined;
  const write = async (mapHandle: ResourceHandle | null) => {
    for await (const item of imageMux(run).write_image(handle, mapHandle, { ...options, bytes: size })) {
      receipt = item.receipt ?? receipt;
      if (item.receipt === null && !run.quiet) progress.show(item.phase, item);
    }
  };
  try {
    if (map === undefined) await write(null);
    else await run.node.lendSource(createReadStream(map), write, { signal: run.signal });
  } catch (thrown) {
    const error = toAgentError(thrown);
    if (error.category !== "no-such-method") throw error;
    const hint = "without --bmap, --skip-unchanged and --no-verify it can flash";
    throw new AgentError("E_UNSUPPORTED", "this storage cannot do that", { hint, cause: thrown });
  } finally {
    progress.end();
  }
  const { content } = receipt?.image ?? {};
  run.note(`${receipt?.verdict}: ${content?.mappedBytes ?? content?.bytes} bytes, sha256 ${content?.sha256}`);
}

function refuseTarget(target: string): never {
  throw new AgentError("E_INVALID", `target is not supported by a storage multiplexer, ${target} was given`);
}

/** Switches to the host for the transfer, and to the board after it in every case. */
async function onHost(run: Run, transfer: () => Promise<unknown>): Promise<void> {
  await mux(run).host();
  try {
    await transfer();
  } finally {
    // Also after Ctrl-C, so without its signal.
    await run.node.as(storageMux).dut();
  }
}
