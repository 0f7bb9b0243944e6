import { flasher } from "../../../../boards/storage/interface.ts";
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

export const compression = {
  kind: "text",
  choices: contentEncodings,
  help: "Encoding of the local file; the driver gets plain bytes",
} as const;

/** `flash` and `dump` for whatever can take an image. */
export function flashCommands(means: Flasher): Commands {
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

export function encodingOf(compression: string | undefined): ContentEncoding | undefined {
  return contentEncodings.find((known) => known === compression);
}

export function parseTarget(spec: string): { target: string; file: string } {
  const at = spec.indexOf(":");
  if (at < 1) throw new AgentError("E_USAGE", `Invalid target spec '${spec}', expected name:file`);
  return { target: spec.slice(0, at), file: spec.slice(at + 1) };
}

const label = (verb: string, target: string | undefined) => (target === undefined ? verb : `${verb} ${target}`);

/** Images that this client lends. */
export const images: Flasher = {
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
};

export const flasherCommands = flashCommands(images);
