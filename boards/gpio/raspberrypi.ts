import type * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import { pinInputConfig, pinOutputConfig, pinPowerConfig, type OutputConfig } from "./config.ts";
import { inspectLine, openInputDriver, openOutputDriver, openPowerDriver } from "./driver.ts";
import { openChips, systemRoots, type Wanted } from "./find.ts";
import { digitalInput, digitalOutput, gpioPower } from "./interface.ts";

/** The types of the package that gpiod has replaced: pins instead of lines. */

/** The chip behind the header: gpiochip0 on most models, gpiochip4 on a Pi 5 with some kernels. */
const headerChip = /^pinctrl-(bcm2835|bcm2711|bcm2712|rp1)$/;

interface Pin {
  readonly pin: number;
  readonly device?: number | string | null | undefined;
}

async function lineOf({ pin, device }: Pin): Promise<Wanted> {
  if (device !== undefined && device !== null) return { device, line: pin };
  const chips = await openChips(systemRoots, () => {});
  // A Pi 5 has both: the pins of its header are those of rp1.
  const labels = chips.map(({ info }) => info.label).filter((label) => headerChip.test(label));
  for (const chip of chips) await chip.close();
  return { device: labels.find((label) => label.endsWith("rp1")) ?? labels[0] ?? 0, line: pin };
}

const clientOf = (name: string) => (config: { old_client: boolean }) =>
  config.old_client ? `jumpstarter_driver_raspberrypi.client.${name}` : undefined;

/** Unlike a line of gpiod, a pin is left as it was until it is switched, unless an initial value is given. */
async function asOutput<C extends z.output<typeof pinOutputConfig>>(config: C): Promise<OutputConfig> {
  const drive = config.open_drain === true ? "open_drain" : config.drive;
  return { ...config, ...(await lineOf(config)), drive };
}

export const output = defineDriver({
  types: ["jumpstarter_driver_raspberrypi.driver.DigitalOutput"],
  summary: "A pin of a Raspberry Pi that is driven.",
  implements: digitalOutput,
  hotPlugged: true,
  config: pinOutputConfig,
  client: clientOf("DigitalOutputClient"),
  open: async ({ config, log }) => openOutputDriver({ config: await asOutput(config), log }),
  inspect: async (config) => inspectLine(await lineOf(config)),
});

export const powerSwitch = defineDriver({
  types: ["jumpstarter_driver_raspberrypi.driver.PowerSwitch"],
  summary: "Power switched by a pin of a Raspberry Pi.",
  implements: gpioPower,
  hotPlugged: true,
  config: pinPowerConfig,
  open: async ({ config, log }) => openPowerDriver({ config: await asOutput(config), log }),
  inspect: async (config) => inspectLine(await lineOf(config)),
});

export const input = defineDriver({
  types: ["jumpstarter_driver_raspberrypi.driver.DigitalInput"],
  summary: "A pin of a Raspberry Pi that is watched.",
  implements: digitalInput,
  hotPlugged: true,
  config: pinInputConfig,
  client: clientOf("DigitalInputClient"),
  // gpiozero says nothing when the time is over; clients of today take silence for an edge.
  open: async ({ config }) =>
    openInputDriver({ config: { ...config, ...(await lineOf(config)) } }, { silentTimeouts: config.old_client }),
  inspect: async (config) => inspectLine(await lineOf(config)),
});
