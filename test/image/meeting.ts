import { execFileSync } from "node:child_process";
import { startController, type Lab } from "../sim/controller/controller.ts";

/**
 * A controller that machines and clients on this host find at one address: of TEST-NET-1 (RFC 5737), on the loopback interface.
 * @param address one for each file, as it goes with it
 */
export async function startMeeting(address: `192.0.2.${number}`): Promise<{ lab: Lab; close: () => Promise<void> }> {
  const loopback = (...words: string[]) => execFileSync("ip", ["address", ...words, `${address}/32`, "dev", "lo"]);
  loopback("replace");
  const lab = await startController({ address });
  lab.addClient({ name: "ann" });
  return {
    lab,
    async close() {
      await lab.close();
      loopback("delete");
    },
  };
}
