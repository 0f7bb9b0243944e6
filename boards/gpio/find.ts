import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { AgentError, DeviceOffline, toAgentError } from "../../agent/driver/errors.ts";
import { openChip, type ChipInfo, type GpioChip, type LineInfo } from "../../agent/sys/gpio.ts";

/** Where the system keeps its devices; tests have trees of their own. */
export interface Roots {
  readonly dev: string;
  readonly sys: string;
}

export const systemRoots: Roots = { dev: "/dev", sys: "/sys" };

export interface Wanted {
  readonly device?: number | string | null | undefined;
  readonly line: number | string;
}

export interface Found {
  readonly chip: GpioChip;
  readonly line: LineInfo;
  /** `line 3 (POWER_RELAY) of gpiochip0 [pinctrl-bcm2711]` */
  readonly description: string;
}

/** There is no character device for the chip that is meant; sysfs may have it. */
export class NoCharacterDevice extends DeviceOffline {}

const chipName = /^gpiochip(\d+)$/;

/** What is meant by `device:` where that is certain without looking: a file. */
function pathOf(device: number | string, { dev }: Roots): string | undefined {
  if (typeof device === "number") return join(dev, `gpiochip${device}`);
  if (device.startsWith("/")) return device;
  return chipName.test(device) ? join(dev, device) : undefined;
}

const describeChip = ({ name, label }: ChipInfo) => `${name} [${label}]`;

function describeLine(chip: ChipInfo, { offset, name }: LineInfo): string {
  return `line ${offset}${name === "" ? "" : ` (${name})`} of ${describeChip(chip)}`;
}

/** Every chip that has a character device. The caller closes them. @param onError for chips that cannot be opened */
export async function openChips(roots: Roots, onError: (error: AgentError) => void): Promise<GpioChip[]> {
  const numbers = (await readdir(roots.dev).catch(() => [] as string[]))
    .flatMap((name) => chipName.exec(name)?.[1] ?? [])
    .map(Number)
    .sort((a, b) => a - b);
  const chips: GpioChip[] = [];
  for (const number of numbers) {
    try {
      chips.push(await openChip(join(roots.dev, `gpiochip${number}`)));
    } catch (error) {
      onError(toAgentError(error));
    }
  }
  return chips;
}

export async function linesOf(chip: GpioChip): Promise<LineInfo[]> {
  const lines: LineInfo[] = [];
  for (let offset = 0; offset < chip.info.lines; offset += 1) lines.push(await chip.lineInfo(offset));
  return lines;
}

/**
 * The line that a configuration means, with its chip, which the caller closes.
 * @throws DeviceOffline when there is no such chip or line, with what there is; also when a name fits several: a guess could switch another
 *   board. AgentError E_IO as of openChip
 */
export async function findLine(wanted: Wanted, roots: Roots): Promise<Found> {
  const byName = typeof wanted.line === "string";
  const device = wanted.device ?? (byName ? undefined : 0);
  const path = device === undefined ? undefined : pathOf(device, roots);
  let failed: AgentError | undefined;
  const chips =
    path === undefined
      ? await openChips(roots, (error) => (failed ??= error))
      : [
          await openChip(path).catch((error: unknown) => {
            throw missing(error);
          }),
        ];
  let kept: GpioChip | undefined;
  try {
    const fitting = chips.filter(({ info }) => path !== undefined || device === undefined || info.label === device);
    const there = chips.map(({ info }) => describeChip(info)).join(", ");
    if (fitting.length === 0) {
      if (failed !== undefined) throw missing(failed);
      const what = device === undefined ? "there is no GPIO chip" : `there is no GPIO chip labelled '${device}'`;
      throw new NoCharacterDevice(there === "" ? what : `${what}; there is ${there}`);
    }
    if (!byName && fitting.length > 1)
      throw several(
        `GPIO chips are labelled '${device}'`,
        fitting.map(({ info }) => describeChip(info)),
      );

    const found: Found[] = [];
    for (const chip of fitting) {
      if (typeof wanted.line === "number") {
        if (wanted.line >= chip.info.lines) {
          const have = `${describeChip(chip.info)} has the lines 0 to ${chip.info.lines - 1}`;
          throw new DeviceOffline(`${have}, and no line ${wanted.line}`);
        }
        const line = await chip.lineInfo(wanted.line);
        found.push({ chip, line, description: describeLine(chip.info, line) });
        continue;
      }
      for (const line of await linesOf(chip)) {
        if (line.name === wanted.line) found.push({ chip, line, description: describeLine(chip.info, line) });
      }
    }
    const [first, ...more] = found;
    if (first === undefined) {
      throw new DeviceOffline(
        `no line is called '${wanted.line}' on ${fitting.map(({ info }) => describeChip(info)).join(", ")}`,
      );
    }
    if (more.length > 0)
      throw several(
        `lines are called '${wanted.line}'`,
        found.map(({ description }) => description),
      );
    kept = first.chip;
    return first;
  } finally {
    for (const chip of chips) if (chip !== kept) await chip.close();
  }
}

function missing(error: unknown): unknown {
  const { code, message, hint } = toAgentError(error);
  return code === "E_DEVICE_OFFLINE" || code === "E_UNSUPPORTED"
    ? new NoCharacterDevice(message, { hint, cause: error })
    : error;
}

function several(what: string, all: readonly string[]): DeviceOffline {
  return new DeviceOffline(`${all.length} ${what}: ${all.join(" and ")}; say which by device and number`);
}
