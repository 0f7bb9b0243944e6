import { defineDriver, type Finding } from "../driver/driver.ts";
import { defineInterface } from "../driver/interface.ts";
import { sideCarConfig } from "./config.ts";
import { findPython, probe, pythonVariable } from "./python.ts";
import { SideCar } from "./side-car.ts";

/** What a driver is that nobody could ask yet: any client can hold one, and call it once it is there. */
const unknown = defineInterface({ driverType: "other", client: "jumpstarter.client.DriverClient", methods: {} });

/** The type that runs any Python driver in a process of its own, also one that the agent has itself. */
export const sideCarType = "jumpstarter_agent.SideCar";

export default defineDriver({
  types: [sideCarType],
  summary: "Any Python driver, in a process of its own.",
  implements: unknown,
  config: sideCarConfig,
  bridge: (context) => new SideCar(context),
  needs: () => ({ rights: ["programs"] }),
  async inspect({ type, python: configured }): Promise<readonly Finding[]> {
    const python = findPython(configured);
    if (python === undefined) {
      return [{ ok: false, text: `no Python runs ${type}`, hint: `set ${pythonVariable} to one that has Jumpstarter` }];
    }
    const { missing, version } = await probe(python, type);
    if (missing === undefined) {
      return [{ ok: true, text: `${type} is run through the side-car by ${python} (Jumpstarter ${version ?? "?"})` }];
    }
    const hint = `install its package for ${python}, or set ${pythonVariable} to a Python that has it`;
    return [{ ok: false, text: `${type} cannot be imported by ${python}: ${missing}`, hint }];
  },
  async open({ bridge }) {
    const sideCar = bridge as SideCar;
    await sideCar.open();
    return {
      methods: {},
      reset: () => sideCar.reset(),
      release: () => sideCar.release(),
      close: () => sideCar.close(),
      check: () => sideCar.check(),
    };
  },
});
