// Exporters of one process: what goes wrong in one of them where nobody catches it does not reach another.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { stringify } from "yaml";
import { scratch } from "../sim/agent.ts";
import { startController } from "../sim/controller/controller.ts";
import { until } from "../sim/lease-bench.ts";
import { leaseClient } from "../sim/lease-client.ts";

test("a driver that throws where nobody catches it restarts its own exporter, and ends it if it does so again", async (t) => {
  const lab = await startController();
  t.after(() => lab.close());
  lab.addClient({ name: "ann" });
  const directory = scratch(t);
  // The first one opens the connections that all share.
  const names = ["first", "loose", "last"];
  const files = names.map((name) => {
    lab.addExporter({ name });
    const file = join(directory, `${name}.yaml`);
    const drivers = { board: { type: "forgetful.driver.Forgetful" } };
    const more = { failureDetection: { maxRapidFailures: 2, rapidFailureWindow: 60 } };
    writeFileSync(file, stringify(lab.exporterConfig(name, drivers, more)));
    return file;
  });
  const child = spawn(process.execPath, ["--import", "tsx", "test/sim/host-process.ts", ...files], {
    env: { ...process.env, XDG_RUNTIME_DIR: directory },
    stdio: ["ignore", "pipe", "pipe"],
  });
  t.after(() => child.kill("SIGKILL"));
  let printed = "";
  for (const output of [child.stdout, child.stderr]) output.on("data", (data: Buffer) => (printed += data.toString()));
  const exited = once(child, "exit");
  for (const name of names) {
    await lab.ready(name).catch((error: unknown) => {
      throw new Error(printed, { cause: error });
    });
    lab.createLease({ client: "ann", exporterName: name, name: `lease-${name}` });
  }
  const ann = leaseClient(t, lab.clientConfig("ann"));
  const [first, loose, last] = await Promise.all(names.map((name) => ann.connect(`lease-${name}`)));
  const call = async (client: typeof first, method: string) => await client?.find("board")?.call(method);
  const reports = (name: string) => lab.records.statuses.filter(({ exporter }) => exporter === name);
  const othersAreWell = async () => {
    for (const client of [first, last]) assert.equal(await call(client, "ping"), "pong");
    for (const name of ["first", "last"]) {
      assert.deepEqual(
        reports(name)
          .map((report) => report.name)
          .filter((name) => name !== "AVAILABLE"),
        ["LEASE_READY"],
      );
      assert.equal(lab.records.registers.filter(({ exporter }) => exporter === name).length, 1);
    }
  };
  await othersAreWell();

  assert.equal(await call(loose, "rejectLater"), null);
  await until("the rejection is told", async () => printed.includes("ERROR host: Unhandled rejection: nobody waits"));
  assert.equal(await call(loose, "ping"), "pong");

  await call(loose, "throwLater").catch(() => {});
  await lab.waitFor(() => reports("loose").some(({ message }) => message === "Exporter failed: the cable is loose"), {
    what: "the controller to know why the exporter has failed",
  });
  // It begins anew, and serves the lease that it has still.
  await lab.waitFor(() => reports("loose").filter(({ name }) => name === "LEASE_READY").length === 2);
  assert.equal(lab.lease("lease-loose").ended, false);
  const again = await ann.connect("lease-loose");
  assert.equal(await call(again, "ping"), "pong");
  await othersAreWell();

  await call(again, "throwLater").catch(() => {});
  await until("it is given up", async () =>
    /ERROR host: Exporter loose cannot go on: the exporter failed 2 times within 60 s each/.test(printed),
  );
  await othersAreWell();
  assert.equal(reports("loose").at(-1)?.name, "OFFLINE");
  child.kill("SIGTERM");
  assert.deepEqual(await exited, [1, null], printed);
  assert.deepEqual(lab.records.problems, []);
});
