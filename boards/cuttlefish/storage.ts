import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import { unsupported } from "../../agent/driver/interface.ts";
import { cuttlefishStorage } from "./interface.ts";

const why = "a Cuttlefish device is made of what its environment names: create_cvd";

export default defineDriver({
  types: ["jumpstarter_agent.CuttlefishStorage"],
  summary: "Storage of a Cuttlefish device, which cannot be flashed.",
  implements: cuttlefishStorage,
  config: z.strictObject({}),
  open: () => ({ methods: { flash: unsupported(why), dump: unsupported(why) } }),
});
