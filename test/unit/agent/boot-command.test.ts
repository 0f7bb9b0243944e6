import assert from "node:assert/strict";
import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { boot } from "../../../agent/cli/boot.ts";
import { readArguments } from "../../../agent/cli/command.ts";
import { scratch } from "../../sim/agent.ts";
import { lan, startLan } from "../../sim/lan.ts";
import type { NetworkNamespace } from "../../sim/network-namespace.ts";

test("words that make no sense are told before anything listens", async (t) => {
  const root = scratch(t);
  writeFileSync(join(root, "file"), "");
  const dhcp = ["--root", root, "--interface", "lo", "--dhcp"];
  for (const [words, message] of [
    [[], /--root DIR is needed/],
    [["--root", join(root, "nowhere")], /nowhere: ENOENT/],
    [["--root", join(root, "file")], /is no folder/],
    [["--root", root, "--tftp-port", "70000"], /--tftp-port must be a whole number from 0 to 65535/],
    [["--root", root, "--http-port", "x"], /--http-port/],
    [["--root", root, "--window-limit", "0"], /--window-limit/],
    [["--root", root, "--boot", "x"], /--boot means nothing without --dhcp/],
    [["--root", root, "--router", "10.0.0.1"], /--router means nothing/],
    [["--root", root, "--dhcp"], /name it with --interface/],
    [[...dhcp, "--proxy-dhcp"], /not both/],
    [["--root", root, "--interface", "lo", "--proxy-dhcp"], /--proxy-dhcp needs a --boot FILE/],
    [[...dhcp, "--range", "10.0.0.1"], /FIRST-LAST/],
    [[...dhcp, "--boot", "a", "--boot", "b"], /two files for every board: a and b/],
    [[...dhcp, "--boot", "vax=a"], /there is no architecture vax/],
    [[...dhcp, "--board", "board-1=a"], /--board board-1=a: MAC=… is needed/],
    [[...dhcp, "--reserve", "02:00:00:00:00:07"], /--reserve 02:00:00:00:00:07: MAC=…/],
  ] as const) {
    const { given } = readArguments(words, boot.options);
    await assert.rejects(boot.run(given, []), { code: "E_USAGE", message }, words.join(" "));
  }
  const { given } = readArguments(["--root", root, "--interface", "nowhere0"], boot.options);
  await assert.rejects(boot.run(given, []), { code: "E_IO", message: /^no address to listen on: %nowhere0$/ });
});

const skip = process.geteuid?.() !== 0 && "network namespaces need root";

async function said(child: ChildProcess): Promise<{ code: number | null; text: string }> {
  let text = "";
  child.stdout?.on("data", (chunk: Buffer) => (text += chunk.toString()));
  child.stderr?.on("data", (chunk: Buffer) => (text += chunk.toString()));
  const [code] = (await once(child, "close")) as [number | null];
  return { code, text };
}

async function startBoot(t: TestContext, host: NetworkNamespace, words: string[]) {
  const args = ["dist/jmp-agent.js", "boot", "--interface", lan.device, "--log-format", "text", ...words];
  const child = host.spawn(process.execPath, args);
  const ended = said(child);
  let output = "";
  child.stdout?.on("data", (chunk: Buffer) => (output += chunk.toString()));
  while (!output.includes("DHCP on")) {
    await Promise.race([once(child.stdout ?? child, "data"), ended]);
    if (child.exitCode !== null) assert.fail((await ended).text);
  }
  return {
    stop: async () => {
      child.kill("SIGTERM");
      return await ended;
    },
  };
}

test("a board gets its address, its boot file over TFTP and HTTP, and leaves its log", { skip }, async (t) => {
  const directory = scratch(t);
  const root = join(directory, "root");
  mkdirSync(root);
  writeFileSync(join(root, "u-boot.img"), "boot me");
  const words = ["--root", root, "--dhcp", "--boot", "u-boot.img", "--range", "10.77.0.50-10.77.0.60"].concat(
    ["--uploads", join(directory, "logs"), "--lease-file", join(directory, "leases.json")],
    ["--router", lan.host, "--dns", "10.77.0.53"],
  );
  const network = await startLan(t);
  const { host } = network;
  const board = await network.plugIn("02:00:00:00:00:0b");
  const script = join(directory, "script");
  writeFileSync(script, `#!/bin/sh\n[ $1 = bound ] && ip address replace $ip/24 dev eth0 && env\ntrue\n`);
  chmodSync(script, 0o755);
  const lease = async () => {
    const words = ["udhcpc", "-i", "eth0", "-f", "-q", "-n", "-t", "5", "-T", "1", "-s", script];
    const { text } = await said(board.spawn("busybox", words));
    return Object.fromEntries([...text.matchAll(/^(\w+)=(.*)$/gm)].map(([, name = "", value = ""]) => [name, value]));
  };
  const run = async (...command: string[]) => {
    const [program = "", ...args] = command;
    return await said(board.spawn(program, args));
  };

  const first = await startBoot(t, host, words);
  const { ip, siaddr, boot_file, router, dns } = await lease();
  assert.match(ip ?? "", /^10\.77\.0\.(5\d|60)$/);
  assert.deepEqual(
    { siaddr, boot_file, router, dns },
    { siaddr: lan.host, boot_file: "u-boot.img", router: lan.host, dns: "10.77.0.53" },
  );
  const local = join(directory, "got");
  assert.equal((await run("busybox", "tftp", "-g", "-r", "u-boot.img", "-l", local, lan.host)).code, 0);
  assert.equal(readFileSync(local, "utf8"), "boot me");
  const url = `http://${lan.host}:8080`;
  assert.deepEqual(await run("curl", "-sS", `${url}/u-boot.img`), { code: 0, text: "boot me" });
  assert.deepEqual(await run("curl", "-sS", "-T", local, `${url}/uploads/log`), { code: 0, text: "201 Created\n" });
  assert.equal((await run("busybox", "tftp", "-p", "-l", local, "-r", "by-tftp", lan.host)).code, 0);
  for (const name of ["log", "by-tftp"]) assert.equal(readFileSync(join(directory, "logs", name), "utf8"), "boot me");
  const { code, text } = await first.stop();
  assert.equal(code, 143);
  assert.match(text, /TFTP "u-boot.img" to 10\.77\.0\.\d+:\d+: 7 bytes/);

  // The lease outlives the server.
  const second = await startBoot(t, host, words);
  assert.equal((await lease()).ip, ip);
  assert.equal((await second.stop()).code, 143);
});

test("boards are told by their MAC what to boot, and get the addresses that are theirs", { skip }, async (t) => {
  const [known, other] = ["02:00:00:00:00:0c", "02:00:00:00:00:0d"];
  const root = scratch(t);
  const network = await startLan(t);
  const words = ["--root", root, "--dhcp", "--boot", "others.img", "--lease-file", join(root, "leases.json")].concat([
    "--board",
    `${known.toUpperCase()}=own.img`,
    "--reserve",
    `${known}=10.77.0.77`,
  ]);
  await startBoot(t, network.host, words);
  const script = join(root, "script");
  writeFileSync(script, "#!/bin/sh\n[ $1 = bound ] && echo $ip $boot_file\ntrue\n");
  chmodSync(script, 0o755);
  const told = async (mac: string) => {
    const board = await network.plugIn(mac);
    const udhcpc = ["udhcpc", "-i", "eth0", "-f", "-q", "-n", "-t", "5", "-T", "1", "-s", script];
    return (await said(board.spawn("busybox", udhcpc))).text;
  };
  assert.match(await told(known), /^10\.77\.0\.77 own\.img$/m);
  assert.match(await told(other), /^10\.77\.0\.\d+ others\.img$/m);
});
