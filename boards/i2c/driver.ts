import * as z from "zod";
import { defineDriver, type Finding } from "../../agent/driver/driver.ts";
import { AgentError, toAgentError } from "../../agent/driver/errors.ts";
import { int } from "../../agent/driver/lax.ts";
import { address, i2c } from "./interface.ts";
import { hex, openBus, type Bus } from "./transport.ts";

export const busKey = z
  .union([int(0, 65_535), z.string().trim().min(1)])
  .describe("the bus by number (1), path (/dev/i2c-1) or the name that its driver gives it");

/** Those outside have a meaning of their own in the specification (UM10204, 3.1.12). */
const [lowest, highest] = [0x08, 0x77];

const config = z.strictObject({
  bus: busKey,
  addresses: z
    .array(address)
    .nullish()
    .describe("the chips that clients may talk to, as 0x50; default all from 0x08 to 0x77"),
});

/** An I2C bus for clients: of this agent, as the Python packages have none. */
export default defineDriver({
  types: ["jumpstarter_agent.I2c"],
  summary: "An I2C bus: reads and writes chips.",
  implements: i2c,
  hotPlugged: true,
  config,
  async open({ config: { bus: wanted, addresses } }) {
    const bus = await openBus(wanted);
    const allowed = (address: number) => {
      const fine =
        addresses === undefined || addresses === null
          ? address >= lowest && address <= highest
          : addresses.includes(address);
      if (fine) return address;
      const which = addresses?.map(hex).join(", ") ?? `${hex(lowest)} to ${hex(highest)}`;
      throw new AgentError("E_INVALID", `address ${hex(address)} is not among those that may be used: ${which}`);
    };
    return {
      methods: {
        async read(_call, address, length) {
          return [...((await bus.transfer(allowed(address), [{ read: length }]))[0] ?? [])];
        },
        async write(_call, address, bytes) {
          await bus.transfer(allowed(address), [{ write: Uint8Array.from(bytes) }]);
        },
        async transfer(_call, address, messages) {
          const plain = messages.map((each) => ("read" in each ? each : { write: Uint8Array.from(each.write) }));
          return (await bus.transfer(allowed(address), plain)).map((bytes) => [...bytes]);
        },
      },
      check: () => bus.check(),
      close: () => bus.close(),
    };
  },
  inspect: ({ bus }) => inspectBus(bus),
  needs: () => ({ modules: ["i2c-dev"], rights: ["i2c"] }),
});

/** @param look further findings on the bus that was found */
export async function inspectBus(
  wanted: number | string,
  look: (bus: Bus) => Promise<readonly Finding[]> = () => Promise.resolve([]),
): Promise<readonly Finding[]> {
  const problem = (error: unknown): Finding => {
    const { message, hint } = toAgentError(error);
    return { ok: false, text: message, ...(hint === undefined ? {} : { hint }) };
  };
  let bus: Bus;
  try {
    bus = await openBus(wanted);
  } catch (error) {
    return [problem(error)];
  }
  try {
    const found = { ok: true, text: `I2C bus ${bus.description}${bus.plain ? "" : ", SMBus only"}`, nodes: [bus.path] };
    return [found, ...(await look(bus).catch((error: unknown) => [problem(error)]))];
  } finally {
    await bus.close();
  }
}
