import { defineInterface } from "../../agent/driver/interface.ts";

/** A node that only holds children. */
export const composite = defineInterface({
  driverType: "composite",
  client: "jumpstarter_driver_composite.client.CompositeClient",
  methods: {},
});
