// Boards that are told apart by their MAC addresses, as the kernel learns them, at one port 69 of a real network.
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { stringify } from "yaml";
import { connect } from "../../agent/client/connect.ts";
import { http } from "../../net/http/interface.ts";
import { tftp } from "../../net/tftp/interface.ts";
import { scratch } from "../sim/agent.ts";
import { lan, startLan } from "../sim/lan.ts";

const skip = process.geteuid?.() !== 0 && "network namespaces need root";
const boards = { one: "02:00:00:00:01:01", two: "02:00:00:00:01:02", stranger: "02:00:00:00:01:03" };

test("two boards at one port 69 and one HTTP port each see their own files, by MAC address", { skip }, async (t) => {
  const directory = scratch(t);
  const network = await startLan(t);
  const exported: Record<string, unknown> = {};
  for (const name of ["one", "two"] as const) {
    const root_dir = join(directory, name);
    mkdirSync(root_dir);
    writeFileSync(join(root_dir, "boot.img"), `for ${name}`);
    const config = { root_dir, host: `%${lan.device}`, boards: [boards[name]] };
    exported[`tftp-${name}`] = { type: "jumpstarter_driver_tftp.driver.Tftp", config };
    exported[`http-${name}`] = { type: "jumpstarter_driver_http.driver.HttpServer", config };
  }
  const config = join(directory, "exporter.yaml");
  writeFileSync(config, stringify({ metadata: { name: "rack", namespace: "lab" }, export: exported }));
  const socket = join(directory, "socket");
  const agent = network.host.spawn(
    process.execPath,
    ["dist/jmp-agent.js", "run", "--exporter-config", config, "--unix", socket],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  let output = "";
  agent.stdout?.on("data", (chunk: Buffer) => (output += chunk.toString()));
  while (!output.includes("is ready")) {
    assert.equal(agent.exitCode, null, output);
    await sleep(50);
  }
  const client = await connect({ host: socket });
  t.after(() => client.close());
  for (const name of ["one", "two"]) {
    await client.find(`tftp-${name}`)?.as(tftp).start();
    await client.find(`http-${name}`)?.as(http).start();
  }

  let last = 9;
  const fetched = async (mac: string) => {
    const machine = await network.plugIn(mac);
    await machine.run("ip", ["address", "add", `10.77.0.${(last += 1)}/24`, "dev", "eth0"]);
    const local = join(directory, "got");
    writeFileSync(local, "nothing");
    const words = ["tftp", "-g", "-r", "boot.img", "-l", local, lan.host];
    const got = machine.spawn("busybox", words, { stdio: "ignore" });
    const [code] = (await once(got, "exit")) as [number | null];
    const curl = ["-s", "--max-time", "5", `http://${lan.host}:8080/boot.img`];
    const byHttp = await machine.run("curl", curl).catch(() => "refused");
    return [code === 0 ? readFileSync(local, "utf8") : "refused", byHttp];
  };
  assert.deepEqual(await fetched(boards.one), ["for one", "for one"]);
  assert.deepEqual(await fetched(boards.two), ["for two", "for two"]);
  assert.deepEqual(await fetched(boards.stranger), ["refused", "refused"]);
});
