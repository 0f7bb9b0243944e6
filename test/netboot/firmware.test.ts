import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test, type TestContext } from "node:test";
import { crc32 } from "node:zlib";
import { Bootloader } from "../../bundles/flash/bootloader.ts";
import type { ConsoleDialog } from "../../bundles/flash/console.ts";
import { DutSystem } from "../../bundles/flash/dut-system.ts";
import { CommandLine } from "../../bundles/flash/shell.ts";
import { startBootCommand } from "../sim/boot-command.ts";
import { startDnsmasq } from "../sim/dnsmasq.ts";
import { lan, startLan } from "../sim/lan.ts";
import { missingForNetboot } from "../sim/netboot-lab.ts";
import { machineNeeds, switchOn, type Firmware, type Machine } from "../sim/netboot-machine.ts";

const skip = missingForNetboot(["dnsmasq", ...machineNeeds]);
const root = mkdtempSync(join(tmpdir(), "netboot-firmware-"));
before(() => {
  if (skip !== false) return;
  execFileSync(process.execPath, ["scripts/bundle/netboot.mjs", root], { stdio: ["ignore", "ignore", "inherit"] });
});
after(() => rmSync(root, { recursive: true, force: true }));

/** server: we give the addresses; proxy: dnsmasq does, and we tell what to boot. */
type Mode = "server" | "proxy";

const pool = { first: "10.77.0.50", last: "10.77.0.59" };
const poolOfDnsmasq = { first: "10.77.0.100", last: "10.77.0.109" };
const inPool: Readonly<Record<Mode, RegExp>> = { server: /\b10\.77\.0\.5\d\b/, proxy: /\b10\.77\.0\.10\d\b/ };

/** What a lab would say: each kind of machine gets its own first program, and iPXE its script. */
const boot = ["uboot-arm64=arm64/Image", "bios=ipxe.pxe", "efi-x64=snponly.efi"];

interface Kind {
  readonly name: string;
  readonly firmware: Firmware;
  /** What `uname -m` says then. */
  readonly processor: "aarch64" | "x86_64";
  /** Types what someone would have to type; without it, nobody does. */
  readonly attend?: (machine: Machine, mode: Mode) => Promise<void>;
  /** The system has no driver for this machine's card. */
  readonly withoutNetwork?: true;
}

const kinds: readonly Kind[] = [
  { name: "U-Boot on aarch64", firmware: "u-boot-aarch64", processor: "aarch64", attend: bootArm },
  { name: "U-Boot on x86", firmware: "u-boot-x86", processor: "x86_64", attend: bootX86, withoutNetwork: true },
  { name: "iPXE in a card's ROM", firmware: "bios", processor: "x86_64" },
  { name: "PXE of a BIOS, through iPXE", firmware: "bios", processor: "x86_64", attend: asPlainPxe },
  { name: "PXE of UEFI, through iPXE", firmware: "uefi-pxe", processor: "x86_64" },
  { name: "UEFI HTTP boot, through iPXE", firmware: "uefi-http", processor: "x86_64" },
];

const bootTimeoutMs = 120_000;
const commandTimeoutMs = 20_000;

describe("a machine netboots to a shell", { skip, concurrency: 2 }, () => {
  for (const kind of kinds) {
    test(`${kind.name}, with our DHCP`, (t) => netboot(t, kind, "server"));
    test(`${kind.name}, with our proxyDHCP beside dnsmasq`, (t) => netboot(t, kind, "proxy"));
  }
});

async function netboot(t: TestContext, kind: Kind, mode: Mode): Promise<void> {
  const { firmware, attend, processor, withoutNetwork } = kind;
  const machine = await startMachine(t, firmware, mode);
  await attend?.(machine, mode);
  const { console } = machine;
  await console.expect(/netbooted login:/, { what: "login prompt", timeoutMs: bootTimeoutMs });
  const system = new DutSystem(console, "#");
  await system.login({ login_prompt: "login:", username: "root", password: null, prompt: "#" });
  const shell = new CommandLine(console, /#/);
  assert.equal(await shell.check("uname -m", commandTimeoutMs), processor);
  if (withoutNetwork) return;
  await system.network(undefined);
  assert.match(await shell.check("ip -4 -o address show dev eth0", commandTimeoutMs), inPool[mode]);
}

// Debian's build keeps its page tables where a kernel must be loaded, so this one can fetch but not start it.
test("U-Boot of 64 bits on x86_64 has an address and a kernel from us", { skip }, async (t) => {
  const machine = await startMachine(t, "u-boot-x86_64", "server");
  const uboot = await promptOf(machine);
  const { ip } = await uboot.network({ tftpHost: lan.host, tftpPort: 69 }, undefined);
  assert.match(ip, inPool.server);
  await load(uboot, "0x4000000", "amd64/vmlinuz");
});

/** Switches a machine on beside our servers, and says what all of them said when the test fails. */
async function startMachine(t: TestContext, firmware: Firmware, mode: Mode): Promise<Machine> {
  const network = await startLan(t);
  if (mode === "proxy") {
    const router = await network.plugIn("02:00:00:00:00:fe");
    await router.run("ip", ["address", "add", "10.77.0.254/24", "dev", "eth0"]);
    await startDnsmasq(router, [`--dhcp-range=${poolOfDnsmasq.first},${poolOfDnsmasq.last},1h`]);
  }
  const words = mode === "server" ? ["--dhcp", "--range", `${pool.first}-${pool.last}`] : ["--proxy-dhcp"];
  words.push("--root", root, ...boot.flatMap((file) => ["--boot", file]), "--ipxe", "boot.ipxe");
  const service = await startBootCommand(t, network, words);
  const machine = await switchOn(network, firmware);
  t.after(() => {
    if (!("passed" in t && t.passed)) t.diagnostic(`${service.output()}\n${machine.transcript()}`);
  });
  return machine;
}

/** Told by DHCP what to load, where we are the server. U-Boot knows no proxyDHCP: there it must be told by hand. */
async function bootArm(machine: Machine, mode: Mode): Promise<void> {
  const [image, ramdisk] = ["0x40400000", "0x44000000"];
  const uboot = await promptOf(machine);
  const line = new CommandLine(machine.console, /\n=>/);
  if (mode === "server") {
    await line.check("setenv tftpwindowsize 16", commandTimeoutMs);
    const said = await line.check(`dhcp ${image}`, commandTimeoutMs);
    assert.match(said, /Filename 'arm64\/Image'/);
    assert.doesNotMatch(said, /T /, "nothing timed out");
  } else {
    const { ip } = await uboot.network({ tftpHost: lan.host, tftpPort: 69 }, undefined);
    assert.match(ip, inPool.proxy);
    await load(uboot, image, "arm64/Image");
  }
  await expectContent(uboot, image, "arm64/Image");
  await load(uboot, ramdisk, "arm64/initramfs.gz");
  await line.check("setenv bootargs console=ttyAMA0 quiet panic=5", commandTimeoutMs);
  machine.console.send(`booti ${image} ${ramdisk}:${hex(sizeOf("arm64/initramfs.gz"))} $fdt_addr\n`);
}

async function bootX86(machine: Machine, mode: Mode): Promise<void> {
  const [kernel, ramdisk] = ["0x4000000", "0x8000000"];
  const uboot = await promptOf(machine);
  const { ip } = await uboot.network({ tftpHost: lan.host, tftpPort: 69 }, undefined);
  assert.match(ip, inPool[mode]);
  await load(uboot, ramdisk, "amd64/initramfs.gz");
  await load(uboot, kernel, "amd64/vmlinuz");
  const line = new CommandLine(machine.console, /\n=>/);
  await line.check("setenv bootargs console=ttyS0 quiet panic=5", commandTimeoutMs);
  const [kernelSize, ramdiskSize] = [sizeOf("amd64/vmlinuz"), sizeOf("amd64/initramfs.gz")].map(hex);
  machine.console.send(`zboot ${kernel} ${kernelSize} ${ramdisk} ${ramdiskSize}\n`);
}

/**
 * The only PXE ROMs that can be had freely are iPXE's, and they say so. Without its user class it asks as any other
 * ROM does; what it loads must not inherit that.
 */
async function asPlainPxe({ console }: Machine, mode: Mode): Promise<void> {
  await console.expect(/for the iPXE command line/, { what: "iPXE", timeoutMs: 60_000 });
  console.send("\x02");
  // It keeps what the two servers said apart; a ROM that boots by itself takes the proxy's, too.
  const server = mode === "proxy" ? "${proxydhcp/next-server}" : "${next-server}";
  const commands = [
    "set user-class other",
    "ifconf -c dhcp",
    "clear user-class",
    `chain tftp://${server}/\${filename}`,
  ];
  for (const command of commands) {
    await console.expect(/iPXE>/, { what: `iPXE's prompt before ${command}`, timeoutMs: 60_000 });
    await type(console, command);
    console.send("\n");
  }
  await console.expect(/ipxe\.pxe\.* ok/, { what: "the program for a BIOS", timeoutMs: commandTimeoutMs });
}

/** iPXE looks at the serial port now and then, and loses what does not fit in there: what is not echoed is typed again. */
async function type(console: ConsoleDialog, text: string): Promise<void> {
  for (const character of text) {
    const echo = new RegExp(character.replace(/\W/, "\\$&"));
    let tries = 0;
    do {
      assert.ok((tries += 1) <= 5, `iPXE does not take ${JSON.stringify(text)}`);
      console.send(character);
    } while ((await console.hear(echo, 3_000)) === undefined);
  }
}

async function promptOf({ console }: Machine): Promise<Bootloader> {
  const uboot = new Bootloader(console, "\n=>");
  await uboot.interrupt(new AbortController().signal);
  return uboot;
}

async function load(uboot: Bootloader, address: string, path: string): Promise<void> {
  await uboot.load(path, address, sizeOf(path));
  await expectContent(uboot, address, path);
}

/** What is in the machine's memory is what is in the file. */
async function expectContent({ console }: Bootloader, address: string, path: string): Promise<void> {
  const line = new CommandLine(console, /\n=>/);
  const said = await line.check(`crc32 ${address} ${hex(sizeOf(path))}`, commandTimeoutMs);
  const [, sum] = /==> ([0-9a-f]{8})/.exec(said) ?? [];
  assert.equal(
    sum,
    crc32(readFileSync(join(root, path)))
      .toString(16)
      .padStart(8, "0"),
    path,
  );
}

function sizeOf(path: string): number {
  return statSync(join(root, path)).size;
}

function hex(number: number): string {
  return `0x${number.toString(16)}`;
}
