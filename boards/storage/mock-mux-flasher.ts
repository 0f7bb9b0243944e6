import { defineDriver } from "../../agent/driver/driver.ts";
import { storageMuxFlasher } from "./interface.ts";
import { mockConfig, openMockMux } from "./mock-mux.ts";

/** The mock mux for clients that flash through it. */
export default defineDriver({
  types: ["jumpstarter_driver_opendal.driver.MockStorageMuxFlasher"],
  summary: "Storage mux without hardware, used as a flasher: keeps one image in a temporary file.",
  implements: storageMuxFlasher,
  config: mockConfig,
  open: openMockMux,
});
