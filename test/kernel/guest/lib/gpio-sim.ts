import { mkdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { modprobe } from "./system.ts";

/** A GPIO chip of the kernel's simulator (Documentation/admin-guide/gpio/gpio-sim.rst). */
export interface SimulatedChip {
  /** `gpiochip0` */
  readonly name: string;
  /** What is on a line, in volts: 1 high, 0 low. */
  level(offset: number): number;
  /** What the world outside does to a line that is not driven. */
  pull(offset: number, to: "up" | "down"): void;
  /** What the pull is now, also when a bias has changed it. */
  pulled(offset: number): string;
  unplug(): void;
}

export interface SimulatedLines {
  readonly label: string;
  readonly lines: number;
  readonly names?: Readonly<Record<number, string>>;
  /** Lines that a driver of the kernel drives high, with its name. */
  readonly hogs?: Readonly<Record<number, string>>;
}

export async function plugGpio(
  id: string,
  { label, lines, names = {}, hogs = {} }: SimulatedLines,
): Promise<SimulatedChip> {
  await modprobe("gpio-sim");
  const device = join("/sys/kernel/config/gpio-sim", id);
  const bank = join(device, "bank0");
  const made = [device, bank];
  mkdirSync(bank, { recursive: true });
  writeFileSync(join(bank, "num_lines"), `${lines}`);
  writeFileSync(join(bank, "label"), label);
  for (const offset of new Set([...Object.keys(names), ...Object.keys(hogs)])) {
    const line = join(bank, `line${offset}`);
    mkdirSync(line);
    made.push(line);
    const [name, hog] = [names[Number(offset)], hogs[Number(offset)]];
    if (name !== undefined) writeFileSync(join(line, "name"), name);
    if (hog === undefined) continue;
    mkdirSync(join(line, "hog"));
    made.push(join(line, "hog"));
    writeFileSync(join(line, "hog/name"), hog);
    writeFileSync(join(line, "hog/direction"), "output-high");
  }
  writeFileSync(join(device, "live"), "1");
  const read = (...path: string[]) => readFileSync(join(...path), "utf8").trim();
  const name = read(bank, "chip_name");
  const sysfs = join("/sys/devices/platform", read(device, "dev_name"), name);
  return {
    name,
    level: (offset) => Number(read(sysfs, `sim_gpio${offset}`, "value")),
    pull: (offset, to) => writeFileSync(join(sysfs, `sim_gpio${offset}`, "pull"), `pull-${to}`),
    pulled: (offset) => read(sysfs, `sim_gpio${offset}`, "pull"),
    unplug() {
      writeFileSync(join(device, "live"), "0");
      for (const folder of made.reverse()) rmdirSync(folder);
    },
  };
}
