// Our DHCP server as a process of its own, since a network namespace is a property of processes.
// usage: node --import tsx test/sim/dhcp-process.ts CONFIG.json
// Prints `ready`, then its log. Lines on stdin: `leases` prints a JSON line, anything else is JSON for update().
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { toAgentError } from "../../agent/driver/errors.ts";
import { LogBus } from "../../agent/driver/log.ts";
import type { DhcpChanges, DhcpConfigInput } from "../../net/dhcp/config.ts";
import { DhcpServer } from "../../net/dhcp/server.ts";

const bus = new LogBus("DEBUG");
bus.subscribe(({ severity, message }) => console.log(`${severity} ${message}`));
try {
  const config = JSON.parse(readFileSync(process.argv[2] ?? "", "utf8")) as DhcpConfigInput;
  const server = await DhcpServer.start(config, bus.logger({ source: "driver", logger: "dhcp" }));
  process.once("SIGTERM", () => void server.stop().then(() => process.exit(0)));
  console.log("ready");
  for await (const line of createInterface({ input: process.stdin })) {
    if (line === "leases") console.log(JSON.stringify(server.leases()));
    else if (line === "memory") console.log(JSON.stringify(process.memoryUsage()));
    else {
      server.update(JSON.parse(line) as DhcpChanges);
      console.log("updated");
    }
  }
} catch (thrown) {
  const { code, message, hint } = toAgentError(thrown);
  console.log(`${code} ${message} (${hint})`);
  process.exit(1);
}
