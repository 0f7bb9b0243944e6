import { writeFile } from "node:fs/promises";
import { video } from "../../../../boards/video/interface.ts";
import { command, type Commands } from "../command.ts";

/** For every kind of camera: pictures come the same way, and `state` prints what there is to tell. */
export const commands: Commands = {
  snapshot: command({
    help: "Save a picture to a local file",
    args: { file: { help: "Local file, such as board.jpg" } },
    run: async ({ node, signal }, { file }) => {
      await writeFile(file, Buffer.from(await node.as(video, { signal }).snapshot(), "base64"));
    },
  }),
  state: command({
    help: "Show whether there are pictures, and how large they are",
    run: async ({ node, signal, print }) => print(JSON.stringify(await node.call("state", [], { signal }), null, 2)),
  }),
};
