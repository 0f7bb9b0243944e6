import assert from "node:assert/strict";
import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { findRunningSystem, type SystemRoots } from "../../../appliance/slots/system.ts";
import { scratch } from "../../sim/agent.ts";

test("the system finds itself and the other one on its own disk", async (t) => {
  const roots = host(t, "quiet jumpstarter.slot=b jumpstarter.boot=trial jumpstarter.esp=x");
  const { architecture, ...system } = await findRunningSystem(roots);
  assert.match(architecture, /^(amd64|arm64)$/);
  assert.deepEqual(system, {
    slot: "b",
    startedAs: "trial",
    version: "1.4.0",
    imageId: "jumpstarter-appliance",
    boot: { path: "/dev/mmcblk0p1", number: "179:1", sizeBytes: 512_000 },
    otherRoot: { path: "/dev/mmcblk0p2", number: "179:2", sizeBytes: 512_000 },
  });
});

test("other hosts are told", async (t) => {
  await assert.rejects(findRunningSystem(host(t, "quiet")), { code: "E_UNSUPPORTED", message: /did not start from/ });
  const elsewhere = host(t, "jumpstarter.slot=a");
  writeFileSync(join(elsewhere.proc, "self/mountinfo"), "30 29 8:1 / / rw - ext4 /dev/sda1 rw\n");
  await assert.rejects(findRunningSystem(elsewhere), { code: "E_UNSUPPORTED", message: /labelled root-a/ });
});

/** It runs from a card; a stick with the same image is in it, too. */
function host(t: TestContext, commandLine: string): SystemRoots {
  const root = scratch(t);
  const write = (path: string, text: string) => {
    mkdirSync(join(root, path, ".."), { recursive: true });
    writeFileSync(join(root, path), text);
  };
  write("proc/cmdline", `${commandLine}\n`);
  const mounts = ["179:3 / / ro", "8:2 / /media/stick ro", "0:5 / /proc rw"];
  write("proc/self/mountinfo", mounts.map((mount, index) => `${index} 1 ${mount} - x y z\n`).join(""));
  write("usr/lib/os-release", 'NAME="Debian"\nIMAGE_ID=jumpstarter-appliance\nIMAGE_VERSION="1.4.0"\n');
  mkdirSync(join(root, "sys/dev/block"), { recursive: true });
  for (const [disk, separator, major] of [
    ["sda", "", 8],
    ["mmcblk0", "p", 179],
  ] as const) {
    for (const [index, label] of ["esp", "root-a", "root-b", "state"].entries()) {
      const name = `${disk}${separator}${index + 1}`;
      const folder = `sys/devices/${disk}/${name}`;
      write(`${folder}/uevent`, `MAJOR=${major}\nDEVNAME=${name}\nPARTNAME=${label}\n`);
      write(`${folder}/dev`, `${major}:${index + 1}\n`);
      write(`${folder}/size`, "1000\n");
      symlinkSync(join(root, folder), join(root, `sys/dev/block/${major}:${index + 1}`));
    }
  }
  return { proc: join(root, "proc"), sys: join(root, "sys"), dev: "/dev", root };
}
