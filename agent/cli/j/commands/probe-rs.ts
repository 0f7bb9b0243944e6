import { probeRs } from "../../../../boards/probe-rs/interface.ts";
import { command, type Commands, type Run } from "../command.ts";
import { withSource } from "../files.ts";

const calls = ({ node, signal }: Run) => node.as(probeRs, { signal });

export const commands: Commands = {
  info: command({ help: "Get target information", run: async (run) => run.print(await calls(run).info()) }),
  reset: command({ help: "Reset the target", run: async (run) => run.print(await calls(run).reset_target()) }),
  erase: command({
    help: "Erase the target, this is a slow operation",
    run: async (run) => run.print(await calls(run).erase()),
  }),
  download: command({
    help: "Download a file to the target",
    args: { file: { help: "Local file, or a http(s) URL that the exporter fetches" } },
    run: async (run, { file }) =>
      run.print(await withSource(run, file, (handle) => calls(run).download(handle), { label: file })),
  }),
  read: command({
    help: "Read from target memory",
    args: {
      width: { kind: "integer", help: "Bits of a word: 8, 16, 32 or 64" },
      address: { help: "Address, such as 0x20000000" },
      words: { kind: "integer", help: "How many words" },
    },
    run: async (run, { width, address, words }) => {
      const read = await calls(run).read(`b${width}`, address, `${words}`);
      run.print(read.map((word) => word.toLowerCase().padStart(width / 4, "0")).join(" "));
    },
  }),
};
