import assert from "node:assert/strict";
import { mkdtempSync, rmSync, statSync } from "node:fs";
import { copyFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { connect } from "../../agent/client/connect.ts";
import { power } from "../../boards/power/interface.ts";
import { serialConsole } from "../../boards/serial/interface.ts";
import { Bootloader } from "../../bundles/flash/bootloader.ts";
import { ConsoleDialog } from "../../bundles/flash/console.ts";
import { tftp } from "../../net/tftp/interface.ts";
import { makeBundle, missingForNetboot, startLab } from "../sim/netboot-lab.ts";
import { boardAddress, hostAddress } from "../sim/network-namespace.ts";

const skip = missingForNetboot();
const shared = mkdtempSync(join(tmpdir(), "netboot-"));
let bundle = "";
before(() => {
  if (skip === false) ({ bundle } = makeBundle(shared));
});
after(() => rmSync(shared, { recursive: true, force: true }));

const loads = 4;

// What a board's own scripts may ask for; our flash asks for less. A restart that overfills U-Boot's receive ring
// hangs its network until the next reset.
test("U-Boot loads files with 1 % of the packets lost, and hardly notices", { skip }, async (t) => {
  const lab = await startLab(t, bundle, { kind: "tap", lossPercent: 1 });
  const { socketPath, agent } = await lab.serve();
  const client = await connect({ host: socketPath });
  t.after(() => client.close());
  const driver = (path: string) => client.find(path) ?? assert.fail(`no driver ${path}`);
  const server = driver("flasher.tftp").as(tftp);
  await server.start();
  const file = join(bundle, "data/initramfs.gz");
  await copyFile(file, join(lab.directory, "tftp/initramfs.gz"));

  let said = "";
  const transcript = (chunk: Buffer) => void (said += chunk.toString());
  const console = new ConsoleDialog(await driver("serial").as(serialConsole).connect(), { transcript });
  await driver("power").as(power).on();
  const uboot = new Bootloader(console, "\n=>");
  await uboot.interrupt(new AbortController().signal);
  const address = { ip: boardAddress, netmask: "255.255.255.0", gateway: undefined };
  await uboot.network({ tftpHost: hostAddress.tap, tftpPort: await server.get_port() }, address);
  for (const windowSize of [1, 16]) {
    console.send(`setenv tftpwindowsize ${windowSize}\n`);
    let waits = 0;
    for (let count = 0; count < loads; count += 1) {
      said = "";
      await uboot.load("initramfs.gz", "0x48000000", statSync(file).size);
      const [, progress = "T"] = /Loading: ([^]*?)done/.exec(said) ?? [];
      // U-Boot prints a T when it has waited for too long.
      if (progress.includes("T")) waits += 1;
      t.diagnostic(`window ${windowSize}: ${/[\d.]+ [KM]iB\/s/.exec(progress)?.[0]}`);
    }
    // Of an ACK that is lost twice only U-Boot itself knows: it answers one repeat, and then waits for 5 s.
    assert.ok(waits <= loads / 2, `window ${windowSize}: ${waits} of ${loads} loads had to wait`);
    // Not all of them: of one whose last ACK is lost the server hears nothing for a while.
    const served = new RegExp(`initramfs.*blksize 1468, windowsize ${windowSize}, \\d+ blocks repeated`);
    assert.match(agent.stdout(), served);
  }
});
