import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import { composite } from "./interface.ts";

export default defineDriver({
  types: ["jumpstarter_driver_composite.driver.Composite"],
  summary: "Groups its children under one name.",
  implements: composite,
  config: z.looseObject({}),
  open: () => ({ methods: {} }),
});
