import { setTimeout as sleep } from "node:timers/promises";
import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import { AgentError, DeviceOffline, toAgentError } from "../../agent/driver/errors.ts";
import { unsupported } from "../../agent/driver/interface.ts";
import { number } from "../../agent/driver/lax.ts";
import { power } from "../power/interface.ts";
import { busKey, inspectBus } from "./driver.ts";
import { address, powerSwitch } from "./interface.ts";
import { continuous, decodeReading, isModel, isReady, models, registers, type Model } from "./protocol.ts";
import { hex, openBus, type Bus } from "./transport.ts";

const config = z
  .strictObject({
    model: z.string().toLowerCase().pipe(z.enum(models)).describe("ina219, ina226 or ina260"),
    bus: busKey,
    address: address.default(0x40).describe("address of the chip, as 0x40"),
    shunt_ohms: number()
      .pipe(z.number().positive())
      .optional()
      .describe("the resistor that the current flows through; an ina260 has its own"),
    interval_s: number().pipe(z.number().min(0.01).max(3_600)).default(1).describe("seconds between readings"),
  })
  .refine(({ model, shunt_ohms }) => model === "ina260" || shunt_ohms !== undefined, {
    path: ["shunt_ohms"],
    error: "is missing: the resistance of the shunt, in ohms",
  });

type Config = z.output<typeof config>;

/** With 1024 averages of the slowest conversions a measurement takes 17 s (SBOS547). */
const longestMeasurementMs = 20_000;
const lookAgainMs = 10;

/** The registers of one chip. */
function chipAt(bus: Bus, address: number) {
  return {
    async read(register: number): Promise<number> {
      const [bytes] = await bus.transfer(address, [{ write: Uint8Array.of(register) }, { read: 2 }]);
      return bytes?.readUInt16BE(0) ?? 0;
    },
    async write(register: number, value: number): Promise<void> {
      await bus.transfer(address, [{ write: Uint8Array.of(register, value >> 8, value & 0xff) }]);
    },
  };
}
type Chip = ReturnType<typeof chipAt>;

/** @throws DeviceOffline if nobody answers, or another chip does */
async function identify({ model, address }: Config, bus: Bus): Promise<Chip> {
  const chip = chipAt(bus, address);
  const what = `${model.toUpperCase()} at ${hex(address)} on ${bus.description}`;
  try {
    if (model === "ina219") {
      await chip.read(registers.config);
      return chip;
    }
    const [manufacturer, die] = [await chip.read(registers.manufacturer), await chip.read(registers.die)];
    if (isModel(model, manufacturer, die) === false) {
      const ids = `manufacturer 0x${manufacturer.toString(16)}, die 0x${die.toString(16)}`;
      throw new DeviceOffline(`there is no ${what}, but another chip: ${ids}`);
    }
    return chip;
  } catch (thrown) {
    const error = toAgentError(thrown);
    if (error.code !== "E_IO") throw thrown;
    throw new DeviceOffline(`there is no ${what}: ${error.message}`, { cause: error });
  }
}

/** A chip that sleeps or measures on demand, as others may have left it, is set to measure all the time. */
async function measuring(model: Model, chip: Chip, signal: AbortSignal): Promise<number> {
  const set = await chip.read(registers.config);
  if ((set & continuous) === continuous) return set;
  await chip.write(registers.config, set | continuous);
  const status = model === "ina219" ? registers.bus : registers.maskEnable;
  for (const deadline = performance.now() + longestMeasurementMs; performance.now() < deadline;) {
    await sleep(lookAgainMs, undefined, { signal });
    if (isReady(model, await chip.read(status))) return set | continuous;
  }
  throw new AgentError("E_TIMEOUT", `the ${model.toUpperCase()} does not measure`);
}

/** Voltage and current of a board, by a chip in its supply; what switches the supply, if anything, is a child named `power`. */
export default defineDriver({
  types: ["jumpstarter_agent.PowerMeter"],
  summary: "Power meter INA219, INA226 or INA260; switches what its child power does.",
  implements: power,
  hotPlugged: true,
  config,
  async open({ config, children }) {
    const bus = await openBus(config.bus);
    let chip: Chip;
    try {
      chip = await identify(config, bus);
    } catch (error) {
      await bus.close();
      throw error;
    }
    const beside = children.get("power");
    const none = unsupported("this power meter switches nothing: it has no child named power");
    const { model, shunt_ohms = NaN, interval_s } = config;
    return {
      methods: {
        on: beside === undefined ? none : ({ signal }) => beside.as(powerSwitch, { signal }).on(),
        off: beside === undefined ? none : ({ signal }) => beside.as(powerSwitch, { signal }).off(),
        async *read({ signal }) {
          const set = await measuring(model, chip, signal);
          for (;;) {
            const values = {
              config: set,
              shunt: await chip.read(registers.shunt),
              bus: await chip.read(registers.bus),
            };
            const { voltageV, currentA, saturated } = decodeReading(model, values, shunt_ohms);
            if (saturated) {
              const limit = `${Math.abs(currentA).toFixed(3)} A`;
              throw new AgentError(
                "E_FAILED",
                `the current is more than the ${model.toUpperCase()} can measure: ${limit}`,
              );
            }
            yield { voltage: voltageV, current: currentA };
            await sleep(interval_s * 1_000, undefined, { signal });
          }
        },
      },
      check: () => bus.check(),
      close: () => bus.close(),
    };
  },
  needs: () => ({ modules: ["i2c-dev"], rights: ["i2c"] }),
  inspect: (config) =>
    inspectBus(config.bus, async (bus) => {
      await identify(config, bus);
      return [{ ok: true, text: `${config.model.toUpperCase()} at ${hex(config.address)} on ${bus.description}` }];
    }),
});
