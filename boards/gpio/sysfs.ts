import { constants } from "node:fs";
import { access, readdir, readFile, realpath, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { DeviceOffline, isSystemError } from "../../agent/driver/errors.ts";
import { NoCharacterDevice, type Roots, type Wanted } from "./find.ts";

/**
 * GPIO lines through /sys/class/gpio, for kernels that have nothing better. It knows no names, no pull resistors, no kind of drive and
 * no times, and lines stay exported when their user is killed.
 */

export interface SysfsLine {
  readonly description: string;
  readonly offset: number;
  isActive(): Promise<boolean>;
  /** Makes it an output. */
  setActive(active: boolean): Promise<void>;
  /** Makes it an input. */
  listen(): Promise<void>;
  /** @throws DeviceOffline when its chip has gone */
  check(): Promise<void>;
  close(): Promise<void>;
}

interface SysfsChip {
  /** `gpiochip512`: the number is that of its first line among all lines of the system. */
  readonly name: string;
  readonly label: string;
  readonly base: number;
  readonly lines: number;
  /** Names of its character device, `gpiochip0`; several when chips share a parent. */
  readonly aliases: readonly string[];
}

/** Some of its files cannot be opened for reading, and none may be made by accident. */
const writeOnly = { flag: constants.O_WRONLY | constants.O_TRUNC };
/** udev may need a moment to give a new line to the group gpio. */
const permissionsMs = 1_000;

async function chips({ sys }: Roots): Promise<SysfsChip[]> {
  const folder = join(sys, "class/gpio");
  const names = (await readdir(folder).catch(() => [] as string[])).filter((name) => /^gpiochip\d+$/.test(name));
  const found: SysfsChip[] = [];
  for (const name of names.sort()) {
    const text = async (file: string) => (await readFile(join(folder, name, file), "utf8")).trim();
    try {
      const real = await realpath(join(folder, name));
      // …/platform/gpio-sim.0/gpio/gpiochip512 is …/platform/gpio-sim.0/gpiochip0 as a character device.
      const aliases = (await readdir(dirname(dirname(real)))).filter((each) => /^gpiochip\d+$/.test(each));
      const [base, lines] = [Number(await text("base")), Number(await text("ngpio"))];
      found.push({ name, label: await text("label"), base, lines, aliases });
    } catch (error) {
      // It went away meanwhile.
      if (!isSystemError(error)) throw error;
    }
  }
  return found;
}

async function findChip({ device, line }: Wanted, roots: Roots): Promise<SysfsChip> {
  if (typeof line === "string") {
    throw new NoCharacterDevice(`sysfs knows no names of lines, and so not '${line}'`);
  }
  const all = await chips(roots);
  const meant = typeof device === "number" ? `gpiochip${device}` : (device ?? "gpiochip0");
  const name = meant.startsWith("/") ? meant.slice(meant.lastIndexOf("/") + 1) : meant;
  const fits = [
    ...[(chip: SysfsChip) => chip.label === name, (chip: SysfsChip) => chip.aliases.includes(name)],
    (chip: SysfsChip) => chip.name === name,
  ];
  const there = all.map(({ name, label }) => `${name} [${label}]`);
  for (const fit of fits) {
    const [chip, ...more] = all.filter(fit);
    if (chip === undefined) continue;
    if (more.length === 0) return chip;
    throw new DeviceOffline(`several GPIO chips could be ${meant}: ${there.join(" and ")}; say which by its label`);
  }
  const instead = there.length === 0 ? "" : `; there is ${there.join(", ")}`;
  throw new NoCharacterDevice(`there is no GPIO chip ${meant}${instead}`);
}

/**
 * Takes a line. It stays as it is until it is set or listened to.
 * @param beyond why the line cannot be had as it is configured; thrown where there is a chip
 * @throws DeviceOffline when its chip is missing, or somebody else has the line
 */
export async function openSysfsLine(
  wanted: Wanted,
  activeLow: boolean,
  roots: Roots,
  beyond?: Error,
): Promise<SysfsLine> {
  const chip = await findChip(wanted, roots);
  if (beyond !== undefined) throw beyond;
  const offset = Number(wanted.line);
  const where = `${chip.name} [${chip.label}]`;
  if (offset >= chip.lines) {
    throw new DeviceOffline(`${where} has the lines 0 to ${chip.lines - 1}, and no line ${offset}`);
  }
  const description = `line ${offset} of ${where}, through sysfs`;
  const number = `${chip.base + offset}`;
  const folder = join(roots.sys, "class/gpio");
  const file = (name: string) => join(folder, `gpio${number}`, name);
  const exists = (path: string) =>
    access(path).then(
      () => true,
      () => false,
    );
  const offline = (error: unknown): Error =>
    isSystemError(error) && ["ENOENT", "ENODEV"].includes(error.code)
      ? new DeviceOffline(`${description} has gone`, { cause: error })
      : (error as Error);
  const write = (name: string, value: string) =>
    writeFile(file(name), value, writeOnly).catch((error: unknown) => {
      throw offline(error);
    });
  const read = (name: string) =>
    readFile(file(name), "utf8").then(
      (value) => value.trim(),
      (error: unknown) => {
        throw offline(error);
      },
    );

  // One that is exported already was left by an agent that was killed.
  if (!(await exists(file("value")))) {
    await writeFile(join(folder, "export"), number, writeOnly).catch((error: unknown) => {
      if (isSystemError(error) && error.code === "EBUSY") {
        throw new DeviceOffline(`${description} is in use by a driver of the kernel or another program`, {
          cause: error,
        });
      }
      throw error;
    });
  }
  for (const deadline = performance.now() + permissionsMs; ; await sleep(20)) {
    try {
      // How values are counted, not the voltage: we count by ourselves, since `direction` takes voltages.
      await write("active_low", "0");
      break;
    } catch (error) {
      if (performance.now() > deadline) throw error;
    }
  }

  let output = false;
  return {
    description,
    offset,
    isActive: async () => ((await read("value")) === "1") !== activeLow,
    async setActive(active) {
      const high = active !== activeLow;
      if (output) return write("value", high ? "1" : "0");
      // Sets level and direction at once.
      await write("direction", high ? "high" : "low");
      output = true;
    },
    listen: () => write("direction", "in"),
    check: async () => void (await read("value")),
    async close() {
      await writeFile(join(folder, "unexport"), number, writeOnly).catch(() => {});
    },
  };
}
