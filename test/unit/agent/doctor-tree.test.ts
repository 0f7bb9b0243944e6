import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { chmodSync, chownSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { checkPermissions } from "../../../agent/ops/doctor/permissions.ts";
import { pluggedIn, type PluggedIn } from "../../../agent/ops/doctor/plugged-in.ts";
import { fakeHost, plugUsb, type FakeHost } from "../../sim/fake-host.ts";

/** One line for each device: how deep it hangs, where, what, by which nodes. */
function outline(tree: readonly PluggedIn[], depth = 0): string[] {
  return tree.flatMap(({ at, what, nodes, below }) => [
    " ".repeat(depth) + [at, what, ...nodes].filter((part) => part !== undefined).join(" | "),
    ...outline(below, depth + 1),
  ]);
}

function plugMux(host: FakeHost): void {
  plugUsb(host, [
    { path: "usb1", id: "1d6b:0002", product: "xHCI Host Controller" },
    { path: "1-1", id: "0424:2640" },
    {
      path: "1-1.1",
      id: "0424:4050",
      below: ["1-1.1:1.0/host4/target4:0:0/4:0:0:0/block/sda/sda1", "1-1.1:1.0/host4/4:0:0:0/scsi_generic/sg0"],
    },
    { path: "1-1.2", id: "04e8:6001", product: "sd-wire", serial: "sd-wire_11", deviceNumber: 9 },
    { path: "1-2", id: "0403:6001", serial: "A1", below: ["1-2:1.0/ttyUSB0/tty/ttyUSB0"] },
    { path: "1-3", id: "0525:a4a2", below: ["1-3:1.0/net/usb0"] },
  ]);
  host.write("sys/class/block/sda/size", "62333952\n");
}

test("what is plugged in is shown by hub and port, with the nodes that lead to it", async (t) => {
  const host = fakeHost(t);
  plugMux(host);
  assert.deepEqual(outline(await pluggedIn(host.sys)), [
    "USB",
    " usb1 | 1d6b:0002 xHCI Host Controller",
    "  1-1 | 0424:2640",
    "   1-1.1 | 0424:4050 | /dev/sda (31.9 GB) | /dev/sg0",
    "   1-1.2 | 04e8:6001 sd-wire, serial sd-wire_11",
    "  1-2 | 0403:6001, serial A1 | /dev/ttyUSB0",
    "  1-3 | 0525:a4a2 | usb0",
  ]);
  host.write("sys/class/block/sda/size", "0\n");
  assert.ok(outline(await pluggedIn(host.sys)).includes("   1-1.1 | 0424:4050 | /dev/sda (no medium) | /dev/sg0"));
});

test("ports, chips, adapters, CAN interfaces and cards of the machine itself are shown", async (t) => {
  const host = fakeHost(t, {
    // A port that is there, one that 8250's driver only has a name for, a pseudo terminal, and one of a USB adapter.
    "sys/class/tty/ttyS0/type": "4\n",
    "sys/devices/serial0/uevent": "",
    "sys/class/tty/ttyS1/type": "0\n",
    "sys/class/tty/ptmx/dev": "5:2\n",
    "sys/devices/pci0/usb1/1-1/ttyUSB0/uevent": "",
    "sys/class/tty/ttyUSB0/dev": "188:0\n",
    // One chip alone on its device, and two on one, of which nothing tells which is which.
    "sys/devices/gpio-sim.0/gpiochip0/uevent": "",
    "sys/class/gpio/gpiochip512/label": "rack-a\n",
    "sys/class/gpio/gpiochip512/ngpio": "16\n",
    "sys/devices/twins/gpiochip1/uevent": "",
    "sys/devices/twins/gpiochip10/uevent": "",
    "sys/class/gpio/gpiochip600/label": "b\n",
    "sys/class/gpio/gpiochip700/label": "c\n",
    "sys/bus/i2c/devices/i2c-1/name": "bcm2835 (i2c@7e804000)\n",
    "sys/bus/i2c/devices/1-0040/name": "ina226\n",
    "sys/class/net/can0/type": "280\n",
    "sys/class/net/can0/flags": "0x40081\n",
    "sys/class/net/vcan0/type": "280\n",
    "sys/class/net/vcan0/flags": "0x40080\n",
    "sys/class/net/eth0/type": "1\n",
    "sys/class/block/mmcblk0/size": "62333952\n",
    "sys/class/block/mmcblk0/device/name": "SC32G\n",
    "sys/class/block/mmcblk0/device/type": "SD\n",
    "sys/class/block/mmcblk0p1/size": "1\n",
    "sys/class/block/mmcblk0boot0/size": "1\n",
  });
  host.link("sys/class/tty/ttyS0/device", "sys/devices/serial0");
  host.link("sys/devices/serial0/driver", "sys/bus/platform/drivers/serial8250");
  host.link("sys/class/tty/ttyS1/device", "sys/devices/serial0");
  host.link("sys/class/tty/ttyUSB0/device", "sys/devices/pci0/usb1/1-1/ttyUSB0");
  host.link("sys/bus/gpio/devices/gpiochip0", "sys/devices/gpio-sim.0/gpiochip0");
  host.link("sys/class/gpio/gpiochip512/device", "sys/devices/gpio-sim.0");
  for (const [chip, older] of [
    ["gpiochip1", "gpiochip600"],
    ["gpiochip10", "gpiochip700"],
  ] as const) {
    host.link(`sys/bus/gpio/devices/${chip}`, `sys/devices/twins/${chip}`);
    host.link(`sys/class/gpio/${older}/device`, "sys/devices/twins");
  }
  host.link("sys/bus/i2c/devices/1-0040/driver", "sys/bus/i2c/drivers/ina2xx");
  host.link("sys/class/net/can0/device/driver", "sys/bus/usb/drivers/gs_usb");
  assert.deepEqual(outline(await pluggedIn(host.sys)), [
    "Serial ports",
    " serial8250 | /dev/ttyS0",
    "GPIO chips",
    " rack-a, 16 lines | /dev/gpiochip0",
    " GPIO chip | /dev/gpiochip1",
    " GPIO chip | /dev/gpiochip10",
    "I2C adapters",
    " i2c-1 | bcm2835 (i2c@7e804000) | /dev/i2c-1",
    "  0x40 | ina226, taken by the kernel's driver ina2xx",
    "CAN interfaces",
    " gs_usb, up | can0",
    " virtual, down | vcan0",
    "SD and MMC",
    " SD SC32G, 31.9 GB | /dev/mmcblk0",
  ]);
  assert.deepEqual(await pluggedIn(fakeHost(t).sys), []);
});

const asNobody = { skip: process.getuid?.() !== 0 && "needs root (to be another user)" };

test("nodes that this user may not open are told with the rule that is missing", asNobody, async (t) => {
  const host = fakeHost(t, {
    "etc/group": "root:x:0:\ndialout:x:20:ann\n",
    "etc/passwd": "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n",
  });
  plugMux(host);
  chmodSync(host.root, 0o755);
  const node = (path: string, mode: number, group: number) => {
    host.write(path, "");
    chownSync(join(host.root, path), 0, group);
    chmodSync(join(host.root, path), mode);
    return { path: join(host.root, path), driver: "bench: x" };
  };
  const nodes = [
    node("dev/ttyUSB0", 0o660, 20),
    node("dev/bus/usb/001/009", 0o664, 0),
    node("dev/sg0", 0o600, 0),
    node("dev/open", 0o666, 0),
    { path: join(host.root, "dev/gone"), driver: "bench: y" },
  ];
  assert.deepEqual(
    (await checkPermissions(nodes, host)).map(({ text }) => text),
    ["4 of the devices that are configured can be opened"],
    "root may open all",
  );
  // Another user, in a process of its own, which cannot come back.
  const module = join(import.meta.dirname, "../../../agent/ops/doctor/permissions.ts");
  const words = [nodes, host].map((value) => JSON.stringify(value)).join(", ");
  const script = `
     const { checkPermissions } = await import(${JSON.stringify(module)});
     process.setgroups?.([]); process.setgid?.(65534); process.setuid?.(65534);
     console.log(JSON.stringify(await checkPermissions(${words})));`;
  const printed = execFileSync(process.execPath, ["--import", "tsx", "--input-type=module", "-e", script]);
  const findings = JSON.parse(printed.toString()) as { level: string; text: string; hint?: string }[];
  assert.deepEqual(
    findings.map(({ level }) => level),
    ["problem", "problem", "problem", "ok"],
  );
  const [serial, usb, scsi] = findings;
  assert.match(serial?.text ?? "", /^bench: x: nobody may not open .*ttyUSB0, which belongs to root:dialout.* 0660$/);
  assert.match(serial?.hint ?? "", /^sudo usermod -aG dialout nobody/);
  const rule = 'SUBSYSTEM=="usb", ATTR{idVendor}=="04e8", ATTR{idProduct}=="6001", MODE="0660"';
  assert.ok(usb?.hint?.includes(rule), usb?.hint);
  const ofReader = 'SUBSYSTEM=="scsi_generic", ATTRS{idVendor}=="0424", ATTRS{idProduct}=="4050"';
  assert.ok(scsi?.hint?.includes(ofReader), scsi?.hint);
});
