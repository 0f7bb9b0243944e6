import { Duplex } from "node:stream";
import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import { network } from "./interface.ts";

export default defineDriver({
  types: ["jumpstarter_driver_network.driver.EchoNetwork", "jumpstarter.drivers.network.driver.EchoNetwork"],
  summary: "Gives every frame back; for trying out streams.",
  implements: network,
  config: z.object({}),
  open: () => ({ methods: { connect: echo } }),
});

/** A loop that keeps frame boundaries and takes no more frames than its reader reads. */
function echo(): Duplex {
  let resume: (() => void) | undefined;
  return new Duplex({
    objectMode: true,
    write(frame, _encoding, done) {
      if (this.push(frame)) done();
      else resume = done;
    },
    read() {
      resume?.();
      resume = undefined;
    },
    final(done) {
      this.push(null);
      done();
    },
  });
}
