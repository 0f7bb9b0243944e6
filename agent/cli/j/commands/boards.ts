/** Flashers of microcontrollers, and Renode: what their Python clients call these words. */
import { basename } from "node:path";
import { esp32 } from "../../../../boards/esp32/interface.ts";
import { piPico } from "../../../../boards/pi-pico/interface.ts";
import { renode } from "../../../../boards/renode/interface.ts";
import { stlinkMsd } from "../../../../boards/stlink-msd/interface.ts";
import { flasher } from "../../../../boards/storage/interface.ts";
import { command, type Command, type Commands } from "../command.ts";
import { withSource } from "../files.ts";
import { commandsOf } from "./derived.ts";
import { compression, encodingOf, flasherCommands } from "./flasher.ts";

const file = { help: "Local file, or a http(s) URL that the exporter fetches" } as const;

/** @param where the option that says where the firmware goes, or the target of a file where there is none */
function flash(
  help: string,
  where: { option: string; short: string; help: string } | ((file: string) => string),
): Command {
  const option = typeof where === "function" ? undefined : where;
  return command({
    help,
    args: { file },
    options: {
      compression,
      ...(option === undefined ? {} : { [option.option]: { kind: "text", short: option.short, help: option.help } }),
    },
    run: async (run, { file, compression, ...given }) => {
      const named = option === undefined ? undefined : (given as Record<string, string | undefined>)[option.option];
      const target = typeof where === "function" ? where(file) : named;
      const calls = run.node.as(flasher, { signal: run.signal });
      const encoding = encodingOf(compression);
      await withSource(run, file, (handle) => calls.flash(handle, target), { label: "flash", encoding });
    },
  });
}

export const stlinkCommands: Commands = {
  ...commandsOf(stlinkMsd),
  flash: flash("Flash firmware (.bin or .hex) to the STM32 board", (path) => basename(path)),
};

export const picoCommands: Commands = {
  ...renamed(commandsOf(piPico), { "bootloader-info": "bootloader-info", "enter-bootloader": "bootloader" }),
  flash: flash("Flash UF2 firmware", { option: "name", short: "n", help: "File name on the BOOTSEL volume" }),
};

export const esp32Commands: Commands = {
  ...renamed(commandsOf(esp32), {
    erase: "erase",
    "get-chip-info": "chip-info",
    "hard-reset": "reset",
    "enter-bootloader": "bootloader",
  }),
  ...renamed(flasherCommands, { dump: "dump" }),
  flash: flash("Flash firmware", { option: "address", short: "a", help: "Flash address, such as 0x1000" }),
};

export const renodeCommands: Commands = {
  ...commandsOf(renode),
  monitor: command({
    help: "Send a command to Renode's monitor",
    args: { command: { many: true } },
    run: async ({ node, signal, print }, { command: words }) => {
      const answer = (await node.as(renode, { signal }).monitor_cmd(words.join(" "))).trim();
      if (answer !== "") print(answer);
    },
  }),
};

/** Those of the commands that are named, by their other names. */
function renamed(commands: Commands, names: Readonly<Record<string, string>>): Commands {
  return Object.fromEntries(
    Object.entries(commands).flatMap(([name, one]) => {
      const other = names[name];
      return other === undefined ? [] : [[other, one] as const];
    }),
  );
}
