// The whole product without hardware: a board that is U-Boot in QEMU, flashed by netboot from a bundle in a registry.
// usage: npm run demo
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, readSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { installPrograms, missingPrograms } from "./programs.mjs";

const repository = dirname(dirname(fileURLToPath(import.meta.url)));
const needed = ["qemu-system-aarch64", "/usr/lib/u-boot/qemu_arm64/u-boot.bin", "ip", "mkfs", "apt-get", "unshare"];
const registryAddress = "127.0.0.1:5000";
const bundleName = `${registryAddress}/demo/virtual-board:latest`;
/** The address of examples/virtual-board.yaml: QEMU's NAT has taken the usual one. */
const serverAddress = "10.99.0.1";
const bootLimitMs = 120_000;

process.chdir(repository);
process.exitCode = await (process.argv[2] === "--inside" ? inside(process.argv[3]) : outside());

/** Gets everything ready, then starts itself again in a network of its own. */
async function outside() {
  if (!existsSync("node_modules")) run("npm", ["ci", "--no-audit", "--no-fund"]);
  installPrograms([...needed, "docker-registry"]);
  run(process.execPath, ["scripts/build.mjs"]);
  const work = mkdtempSync(join(tmpdir(), "jmp-demo-"));
  try {
    const missing = missingPrograms(needed);
    if (missing.length > 0) {
      say(`Without ${missing.join(", ")} there is no virtual board. The same with mocks:`);
      return await withMocks(work);
    }
    say("A flasher bundle (Debian's arm64 kernel, busybox) and a disk image that boots");
    run(process.execPath, ["scripts/bundle/make.mjs", join(work, "bundle")]);
    run(process.execPath, ["scripts/bundle/disk.mjs", join(work, "image.raw")]);
    // In there port 69 is free and allowed, and the servers' address is ours, also without root.
    const names = process.getuid() === 0 ? ["--net"] : ["--user", "--map-root-user", "--net"];
    const { status } = spawnSync("unshare", [...names, process.execPath, "scripts/demo.mjs", "--inside", work], {
      stdio: "inherit",
    });
    if (status !== 0 && process.getuid() !== 0 && !userNamespaces()) {
      console.error("This machine forbids user namespaces: run the demo as root.");
    }
    return status ?? 1;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

async function inside(work) {
  const children = [];
  try {
    run("ip", ["link", "set", "lo", "up"]);
    run("ip", ["address", "add", `${serverAddress}/32`, "dev", "lo"]);
    const config = await publish(work, children);

    say("The agent, with examples/virtual-board.yaml");
    const socket = join(work, "agent.sock");
    const log = openSync(join(work, "agent.log"), "w");
    const agent = spawn(process.execPath, [dist("jmp-agent"), "run", "--exporter-config", config, "--unix", socket], {
      cwd: work,
      stdio: ["ignore", log, log],
    });
    children.push(agent);
    if (!(await until(() => existsSync(socket) || agent.exitCode !== null, 20_000)) || agent.exitCode !== null) {
      throw new Error(`the agent does not start:\n${readFileSync(join(work, "agent.log"), "utf8")}`);
    }
    const env = { ...process.env, JUMPSTARTER_HOST: socket };

    say("j flasher flash image.raw: U-Boot, TFTP, a small Linux, HTTP, the disk, and the disk read back");
    run(process.execPath, [dist("j"), "flasher", "flash", join(work, "image.raw")], { env, cwd: work });

    say("The disk, compared from outside");
    compare(join(work, "image.raw"), join(work, "virtual-board/disk.img"));
    console.log("same content");

    say("j power on; j serial pipe: the board boots the disk that was flashed");
    await bootToPrompt(env, work);
    sayWhatNext();
    return 0;
  } catch (error) {
    console.error(`\nThe demo failed: ${error.message}`);
    return 1;
  } finally {
    for (const child of children.reverse()) await ended(child);
  }
}

/** Puts the bundle into a registry, or, without one, into a folder. @returns the configuration that finds it */
async function publish(work, children) {
  const example = join(repository, "examples/virtual-board.yaml");
  if (missingPrograms(["docker-registry"]).length === 0) {
    say(`A registry on ${registryAddress}, and the bundle pushed to it`);
    children.push(
      spawn(process.execPath, ["scripts/bundle/registry.mjs", join(work, "registry"), registryAddress], {
        stdio: "ignore",
      }),
    );
    run(process.execPath, ["--import", "tsx", "scripts/bundle/push.mjs", join(work, "bundle"), bundleName]);
    return example;
  }
  say("No registry here: the bundle as an OCI layout in a folder");
  run(process.execPath, ["scripts/bundle/layout.mjs", join(work, "bundle"), join(work, "layout")]);
  const config = join(work, "virtual-board.yaml");
  writeFileSync(config, readFileSync(example, "utf8").replace(bundleName, `oci-layout:${join(work, "layout")}:latest`));
  return config;
}

async function bootToPrompt(env, work) {
  const pipe = spawn(process.execPath, [dist("j"), "serial", "pipe", "--input"], {
    env,
    cwd: work,
    stdio: ["pipe", "pipe", "inherit"],
  });
  let console_ = "";
  pipe.stdout.on("data", (chunk) => {
    console_ += chunk.toString();
    process.stdout.write(chunk);
  });
  try {
    run(process.execPath, [dist("j"), "power", "on"], { env, cwd: work });
    const heard = async (text) => {
      if (!(await until(() => console_.includes(text), bootLimitMs)))
        throw new Error(`the board does not say "${text}"`);
    };
    await heard("virtual-board login:");
    pipe.stdin.write("root\n");
    await heard("\n# ");
    run(process.execPath, [dist("j"), "power", "off"], { env, cwd: work });
  } finally {
    await ended(pipe);
  }
}

/** What can be shown without QEMU: the same agent and client, with drivers that only say what they do. */
function withMocks(work) {
  const socket = join(work, "agent.sock");
  const agent = spawn(
    process.execPath,
    [dist("jmp-agent"), "run", "--exporter-config", "examples/mock.yaml", "--unix", socket],
    {
      stdio: "inherit",
    },
  );
  return (async () => {
    try {
      if (!(await until(() => existsSync(socket), 20_000))) throw new Error("the agent does not start");
      const env = { ...process.env, JUMPSTARTER_HOST: socket };
      mkdirSync(join(work, "images"));
      const [image, dump] = ["image.raw", "dump.raw"].map((name) => join(work, "images", name));
      writeFileSync(image, Buffer.alloc(2 ** 20, "jumpstarter"));
      for (const words of [
        ["power", "on"],
        ["storage", "write-local-file", image],
        ["storage", "read-local-file", dump],
        ["power", "off"],
      ]) {
        say(`j ${words.join(" ")}`);
        run(process.execPath, [dist("j"), ...words], { env });
      }
      compare(image, dump);
      return 0;
    } catch (error) {
      console.error(`\nThe demo failed: ${error.message}`);
      return 1;
    } finally {
      await ended(agent);
    }
  })();
}

function sayWhatNext() {
  say("What to type next");
  console.log(`./dist/jmp-agent.js run --exporter-config examples/virtual-board.yaml --tls-grpc-listener 127.0.0.1:19090 --tls-grpc-insecure

and from another terminal, with the Python client or with the agent's own:

jmp shell --tls-grpc 127.0.0.1:19090 --tls-grpc-insecure -- j power on
JUMPSTARTER_HOST=127.0.0.1:19090 JMP_GRPC_INSECURE=1 ./dist/j.js serial start-console

Real boards: docs/flashing.md`);
}

function dist(binary) {
  return join(repository, "dist", `${binary}.js`);
}

/** Runs a program to its end. @throws Error if it fails */
function run(command, args, options = {}) {
  const { status, error } = spawnSync(command, args, { stdio: "inherit", ...options });
  if (status !== 0) throw new Error(`${command} ${args.join(" ")}: ${error?.message ?? `exit code ${status}`}`);
}

/** Compares a file with the beginning of another. @throws Error where they differ */
function compare(image, disk) {
  const [one, other] = [openSync(image, "r"), openSync(disk, "r")];
  const [expected, held] = [Buffer.alloc(2 ** 20), Buffer.alloc(2 ** 20)];
  for (let at = 0; ;) {
    const length = readSync(one, expected, 0, expected.length, at);
    if (length === 0) return;
    readSync(other, held, 0, length, at);
    if (!expected.subarray(0, length).equals(held.subarray(0, length)))
      throw new Error(`${disk} differs near byte ${at}`);
    at += length;
  }
}

async function until(happened, limitMs) {
  for (let waitedMs = 0; !happened(); waitedMs += 50) {
    if (waitedMs >= limitMs) return false;
    await sleep(50);
  }
  return true;
}

async function ended(child) {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill("SIGTERM");
  const timer = setTimeout(() => child.kill("SIGKILL"), 10_000);
  await once(child, "exit");
  clearTimeout(timer);
}

function userNamespaces() {
  return spawnSync("unshare", ["--user", "--map-root-user", "true"], { stdio: "ignore" }).status === 0;
}

function say(text) {
  console.log(`\n== ${text}`);
}
