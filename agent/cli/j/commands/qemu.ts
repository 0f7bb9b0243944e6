import { qemu, qemuFlasher } from "../../../../boards/qemu/interface.ts";
import { AgentError } from "../../../driver/errors.ts";
import { command, type Commands } from "../command.ts";
import { flashCommands, images } from "./flasher.ts";

const what = ["disk", "memory"];

export const commands: Commands = {
  resize: command({
    help: "Resize QEMU resources",
    args: { what: { help: what.join(" or ") }, size: { help: "20G, 512M" } },
    run: async ({ node, signal, print }, { what: meant, size }) => {
      const calls = node.as(qemu, { signal });
      if (meant === "disk") await calls.set_disk_size(size);
      else if (meant === "memory") await calls.set_memory_size(size);
      else throw new AgentError("E_USAGE", `resize ${what.join(" or ")}, not ${meant}`);
      print(`${meant === "disk" ? "Disk will be resized" : "Memory will be set"} to ${size} on next power on`);
    },
  }),
};

/** An image may also be in a registry: the exporter fetches it. */
export const qemuFlasherCommands: Commands = flashCommands({
  ...images,
  flash: async (run, image) => {
    if (!image.file.startsWith("oci://")) return images.flash(run, image);
    const calls = run.node.as(qemuFlasher, { signal: run.signal });
    for await (const [stdout, stderr] of calls.flash_oci(image.file, image.target)) {
      for (const line of `${stdout}${stderr}`.split("\n")) if (line !== "") run.note(line);
    }
  },
});
