import { flasher, storageMux } from "../../../../boards/storage/interface.ts";
import { AgentError } from "../../../driver/errors.ts";
import { contentEncodings, type ContentEncoding, type ResourceHandle } from "../../../driver/resource.ts";
import { command, type Commands, type Run } from "../command.ts";
import { withSink, withSource } from "../files.ts";

interface Image {
  readonly file: string;
  readonly target: string | undefined;
  readonly encoding: ContentEncoding | undefined;
}

interface Flasher {
  flash(run: Run, image: Image): Promise<void>;
  dump(run: Run, image: Image): Promise<void>;
}

const compression = {
  kind: "text",
  choices: contentEncodings,
  help: "Encoding of the local file; the driver gets plain bytes",
} as const;

/** `flash` and `dump` for whatever can take an image. */
function flashCommands(means: Flasher): Commands {
  return {
    flash: command({
      help: "Flash image to DUT",
      args: { file: { optional: true, help: "Local file, or a http(s) URL that the exporter fetches" } },
      options: { target: { kind: "text", short: "t", many: true, help: "name:file" }, compression },
      run: async (run, { file, target, compression }) => {
        const encoding = encodingOf(compression);
        const images = target.length > 0 ? target.map(parseTarget) : [{ target: undefined, file }];
        for (const { target, file } of images) {
          if (file === undefined) {
            throw new AgentError("E_USAGE", "FILE argument is required unless --target/-t is used");
          }
          await means.flash(run, { file, target, encoding });
        }
      },
    }),
    dump: command({
      help: "Dump image from DUT to file",
      args: { file: { help: "Local file to write" } },
      options: { target: { kind: "text", help: "Name of the target" }, compression },
      run: async (run, { file, target, compression }) => {
        await means.dump(run, { file, target, encoding: encodingOf(compression) });
      },
    }),
  };
}

function encodingOf(compression: string | undefined): ContentEncoding | undefined {
  return contentEncodings.find((known) => known === compression);
}

function parseTarget(spec: string): { target: string; file: string } {
  const at = spec.indexOf(":");
  if (at < 1) throw new AgentError("E_USAGE", `Invalid target spec '${spec}', expected name:file`);
  return { target: spec.slice(0, at), file: spec.slice(at + 1) };
}

const label = (verb: string, target: string | undefined) => (target === undefined ? verb : `${verb} ${target}`);

export const flasherCommands = flashCommands({
  flash: async (run, { file, target, encoding }) => {
    const calls = run.node.as(flasher, { signal: run.signal });
    const use = (handle: ResourceHandle) => calls.flash(handle, target);
    await withSource(run, file, use, { label: label("flash", target), encoding });
  },
  dump: async (run, { file, target, encoding }) => {
    const calls = run.node.as(flasher, { signal: run.signal });
    const use = (handle: ResourceHandle) => calls.dump(handle, target);
    await withSink(run, file, use, { label: label("dump", target), encoding });
  },
});

const mux = ({ node, signal }: Run) => node.as(storageMux, { signal });

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

/** Switches to the host for the transfer, and to the board after it in every case. */
async function onHost(run: Run, target: string | undefined, transfer: () => Promise<unknown>): Promise<void> {
  if (target !== undefined) {
    throw new AgentError("E_INVALID", `target is not supported by a storage multiplexer, ${target} was given`);
  }
  await mux(run).host();
  try {
    await transfer();
  } finally {
    // Also after Ctrl-C, so without its signal.
    await run.node.as(storageMux).dut();
  }
}

export const muxFlasherCommands: Commands = {
  ...flashCommands({
    flash: (run, { file, target, encoding }) =>
      onHost(run, target, () =>
        withSource(run, file, (handle) => mux(run).write(handle), { label: "flash", encoding }),
      ),
    dump: (run, { file, target, encoding }) =>
      onHost(run, target, () => withSink(run, file, (handle) => mux(run).read(handle), { label: "dump", encoding })),
  }),
  ...muxCommands,
};
