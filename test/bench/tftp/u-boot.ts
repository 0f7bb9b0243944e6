import { Duplex, type Readable, type Writable } from "node:stream";
// Plain JavaScript: it also runs before anything is installed.
import { missingPrograms } from "../../../scripts/programs.mjs";
import { Bootloader } from "../../../bundles/flash/bootloader.ts";
import { ConsoleDialog } from "../../../bundles/flash/console.ts";
import { boardAddress, hostAddress, startNetwork, tapName } from "../../sim/network-namespace.ts";
import { tftpPort } from "../../sim/tftp-peers.ts";
import type { TftpBench } from "./bench.ts";
import type { Cleanup } from "./cleanup.ts";
import type { Clients } from "./client.ts";
import { benchServers, type BenchServer } from "./servers.ts";
import { grouped, rateCell, rotated, table, type Table } from "./tables.ts";

const firmware = "/usr/lib/u-boot/qemu_arm64/u-boot.bin";

const bytes = 64 << 20;
const windows = [1, 16];

/** A real U-Boot (aarch64, emulated) loads 64 MiB from our servers and from tftpd-hpa, which has no windows. */
export function measureUBoot(wanted: TftpBench, clients: Clients, parent: Cleanup): Promise<Table[]> {
  const missing = missingPrograms(["qemu-system-aarch64", firmware]);
  if (missing.length > 0) {
    console.error(`without U-Boot: ${missing.join(", ")} missing`);
    return Promise.resolve([]);
  }
  return parent.during(async (life) => {
    const servers = benchServers().filter(({ name, isOurs }) => isOurs || name === "tftpd-hpa");
    const board = await startUBoot(life, servers, clients.root);
    const name = clients.file(bytes);
    const samples: { server: BenchServer; windowsize: number; rate: number }[] = [];
    for (let round = 0; round < wanted.rounds; round += 1) {
      for (const server of rotated(servers, round)) {
        for (const windowsize of server.isOurs ? windows : windows.slice(0, 1)) {
          samples.push({ server, windowsize, rate: await board.load(server, name, windowsize) });
        }
      }
    }
    const rows = grouped(samples, ({ windowsize }) => `${windowsize}`).map(([windowsize, group]) => [
      windowsize,
      ...servers.map((server) => {
        const rates = group.filter((sample) => sample.server === server).map(({ rate }) => rate);
        return rates.length === 0 ? "-" : rateCell(rates);
      }),
    ]);
    const caption = "U-Boot, aarch64 in QEMU (TCG), 64 MiB, blksize 1468: MiB/s as it says, median (best)";
    return [table(caption, ["windowsize", ...servers.map(({ name }) => name)], rows)];
  });
}

interface UBoot {
  /** @returns the rate that U-Boot says, in MiB/s */
  load(server: BenchServer, name: string, windowsize: number): Promise<number>;
}

async function startUBoot(life: Cleanup, servers: readonly BenchServer[], root: string): Promise<UBoot> {
  const network = await startNetwork(life, { kind: "tap" });
  const addresses = new Map<BenchServer, string>();
  for (const [index, server] of servers.entries()) {
    const address = `10.77.0.${10 + index}`;
    await network.run("ip", ["address", "add", `${address}/24`, "dev", tapName]);
    await server.start(network, address, root);
    addresses.set(server, address);
  }
  const words = ["-M", "virt", "-cpu", "cortex-a57", "-accel", "tcg", "-m", "512", "-bios", firmware].concat(
    ["-netdev", `tap,id=n0,ifname=${tapName},script=no,downscript=no`, "-device", "virtio-net-pci,netdev=n0,romfile="],
    ["-display", "none", "-monitor", "none", "-serial", "stdio"],
  );
  const machine = network.spawn("qemu-system-aarch64", words, { stdio: ["pipe", "pipe", "ignore"] });
  let said = "";
  const stream = Duplex.from({ readable: machine.stdout as Readable, writable: machine.stdin as Writable });
  const console = new ConsoleDialog(stream, { transcript: (chunk) => (said += chunk.toString()) });
  const uboot = new Bootloader(console, "\n=>");
  await uboot.interrupt(new AbortController().signal);
  const fixed = { ip: boardAddress, netmask: "255.255.255.0", gateway: undefined };
  await uboot.network({ tftpHost: hostAddress.tap, tftpPort }, fixed);
  const set = async (name: string, value: string) => {
    console.send(`setenv ${name} ${value}\n`);
    await console.expect(/=>/, { what: "prompt", timeoutMs: 10_000 });
  };
  return {
    async load(server, name, windowsize) {
      await set("serverip", addresses.get(server) ?? "");
      await set("tftpwindowsize", `${windowsize}`);
      said = "";
      await uboot.load(name, "0x42000000", bytes);
      return Number(/([\d.]+) MiB\/s/.exec(said)?.[1]);
    },
  };
}
