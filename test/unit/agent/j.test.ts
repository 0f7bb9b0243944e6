import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { connect as connectSocket } from "node:net";
import { join } from "node:path";
import { before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import zlib from "node:zlib";
import { progressLine } from "../../../agent/cli/j/progress.ts";
import { kinds } from "../../../agent/cli/j/kinds.ts";
import { describeWords, parseWords, synopsis } from "../../../agent/cli/j/words.ts";
import { shippedDrivers } from "../../../agent/driver/catalog.ts";
import { scratch, startAgent, type AgentProcess } from "../../sim/agent.ts";
import { run, type Finished } from "../../sim/python-client.ts";

describe("words of a command", () => {
  const grammar = {
    args: { srcFile: { help: "what to send" }, count: { kind: "integer", optional: true }, more: { many: true } },
    options: {
      waitSeconds: { kind: "number", short: "w", default: 2, help: "a while" },
      algo: { kind: "text", choices: ["md5", "sha256"], help: "which" },
      target: { kind: "text", short: "t", many: true, help: "where" },
      powerOff: { kind: "flag", negatable: true, default: true, help: "at the end" },
      force: { kind: "flag", short: "f", help: "anyway" },
    },
  } as const;

  test("options may stand anywhere and in every notation", () => {
    const nothing = { algo: undefined, count: undefined, force: false, more: [], powerOff: true, target: [] };
    for (const [words, expected] of [
      ["a", { ...nothing, srcFile: "a", waitSeconds: 2 }],
      ["-w 1.5 a 3 b c", { ...nothing, srcFile: "a", waitSeconds: 1.5, count: 3, more: ["b", "c"] }],
      ["a --wait-seconds=0 -t x -ty --target z", { ...nothing, srcFile: "a", waitSeconds: 0, target: ["x", "y", "z"] }],
      [
        "--no-power-off a -f --algo SHA256",
        { ...nothing, srcFile: "a", waitSeconds: 2, powerOff: false, force: true, algo: "sha256" },
      ],
      ["--no-power-off --power-off a", { ...nothing, srcFile: "a", waitSeconds: 2 }],
      ["-- --wait-seconds", { ...nothing, srcFile: "--wait-seconds", waitSeconds: 2 }],
    ] as const) {
      assert.deepEqual(parseWords(grammar, words.split(" ")), expected, words);
    }
  });

  test("a wrong word is named", () => {
    for (const [words, message] of [
      [[], /Missing argument SRC_FILE/],
      [["a", "x"], /COUNT takes a whole number, not 'x'/],
      [["a", "1.5"], /COUNT takes a whole number/],
      [["a", "-w", "soon"], /--wait-seconds takes a number, not 'soon'/],
      [["a", "--algo", "crc"], /--algo takes md5, sha256, not 'crc'/],
      [["a", "--bogus"], /Unknown option '--bogus'/],
      [["a", "--no-force"], /Unknown option '--no-force'/],
      [["a", "--algo"], /--algo/],
    ] as const) {
      assert.throws(() => parseWords(grammar, words), message, words.join(" "));
    }
    assert.throws(() => parseWords({}, ["x", "y"]), /Unexpected arguments x y/);
    const required = { options: { expireSecond: { kind: "integer", required: true, help: "" } } } as const;
    assert.throws(() => parseWords(required, []), /Missing option --expire-second/);
  });

  test("raw words begin at the first that is no option", () => {
    const raw = {
      args: { args: { many: true } },
      options: {
        env: { kind: "text", short: "e", many: true, help: "" },
        quiet: { kind: "flag", short: "q", help: "" },
      },
      raw: true,
    } as const;
    for (const [words, env, args] of [
      ["-e A=1 --env=B=2 -eC=3 x -e D", ["A=1", "B=2", "C=3"], ["x", "-e", "D"]],
      ["-l -e A", [], ["-l", "-e", "A"]],
      ["-q -e A=1 -- -e B=2", ["A=1"], ["-e", "B=2"]],
    ] as const) {
      assert.deepEqual(parseWords(raw, words.split(" ")), { env, args, quiet: words.startsWith("-q") }, words);
    }
  });

  test("help says what may be given", () => {
    assert.equal(synopsis(grammar), "[OPTIONS] SRC_FILE [COUNT] [MORE...]");
    assert.deepEqual(describeWords(grammar), {
      args: [["SRC_FILE", "what to send"]],
      options: [
        ["-w, --wait-seconds NUMBER", "a while  [default: 2]"],
        ["--algo md5|sha256", "which"],
        ["-t, --target TEXT", "where  [may be repeated]"],
        ["--power-off, --no-power-off", "at the end  [default: on]"],
        ["-f, --force", "anyway"],
      ],
    });
  });
});

test("a transfer shows its part, its speed and what is left", () => {
  const mebi = 1024 * 1024;
  assert.equal(
    progressLine({ label: "flash", bytes: 128 * mebi, totalBytes: 256 * mebi, seconds: 2 }),
    "flash [############            ]  50% 128.0/256.0 MiB 64.0 MiB/s 0:02",
  );
  assert.equal(
    progressLine({ label: "dump", bytes: mebi, totalBytes: undefined, seconds: 1 }),
    "dump 1.0 MiB 1.0 MiB/s",
  );
});

test("j knows every kind of driver that ships", async () => {
  for (const type of shippedDrivers.types()) {
    // It stands for drivers whose kinds are known when they run.
    if (type === "jumpstarter_agent.SideCar") continue;
    const driver = await shippedDrivers.load(type);
    assert.ok(kinds.has(driver?.implements.client ?? ""), `${type}: ${driver?.implements.client ?? ""}`);
  }
});

describe("j against a running agent", () => {
  const cleanUps: (() => unknown)[] = [];
  const t = { after: (f: () => unknown) => cleanUps.push(f) } as unknown as Parameters<typeof startAgent>[0];
  let agent: AgentProcess;
  let folder: string;

  before(async () => {
    folder = scratch(t);
    agent = await startAgent(t, {
      power: { type: "jumpstarter_driver_power.driver.MockPower", description: "Bench supply" },
      board: {
        children: { supply: { ref: "power" }, echo: { type: "jumpstarter_driver_network.driver.EchoNetwork" } },
      },
      serial: { type: "jumpstarter_driver_pyserial.driver.PySerial", config: { url: "loop://" } },
      mux: { type: "jumpstarter_driver_opendal.driver.MockStorageMux" },
      card: { type: "jumpstarter_driver_opendal.driver.MockStorageMuxFlasher" },
      flasher: { type: "jumpstarter_driver_opendal.driver.MockFlasher" },
      files: { type: "jumpstarter_driver_opendal.driver.Opendal", config: { scheme: "fs", kwargs: { root: folder } } },
      shell: {
        type: "jumpstarter_driver_shell.driver.Shell",
        config: {
          methods: { say: 'echo "$WORD $*"', fail: { command: "echo no >&2; exit 42", description: "Fails" } },
        },
      },
      http: {
        type: "jumpstarter_driver_http.driver.HttpServer",
        config: { root_dir: join(folder, "www"), host: "127.0.0.1", port: 0 },
      },
      net: { type: "jumpstarter_driver_network.driver.TcpNetwork", config: { host: "127.0.0.1", port: 8099 } },
    });
  });
  // Last registered, first undone: the agent ends before its folder goes.
  test.after(async () => {
    for (const cleanUp of cleanUps.reverse()) await cleanUp();
  });

  const env = () => ({ JUMPSTARTER_HOST: agent.socketPath });
  const j = (words: string, input = ""): Promise<Finished> =>
    run(process.execPath, ["dist/j.js", ...words.split(" ").filter(Boolean)], { env: env(), input, timeoutMs: 60_000 });
  /** Runs words that must succeed. */
  const ok = async (words: string, input?: string) => {
    const { code, stdout, stderr } = await j(words, input);
    assert.equal(code, 0, `j ${words}\n${stderr}`);
    return stdout;
  };

  test("names lead to drivers, nested or dotted, and a driver's words to its calls", async () => {
    assert.equal(await ok("power on"), "");
    assert.match(await ok("board supply cycle --wait 0"), /Power cycling with 0 seconds/);
    assert.equal(
      await ok("board.supply read"),
      "voltage=0 V  current=0 A  apparent_power=0 VA\nvoltage=5 V  current=2 A  apparent_power=10 VA\n",
    );
    assert.equal(await ok("net address"), "127.0.0.1:8099\n");
    assert.equal(await ok("net address --port"), "8099\n");
    assert.match(await ok("http start"), /^$/);
    assert.match(await ok("http get-url"), /^http:\/\/127\.0\.0\.1:\d+\n$/);
    await ok("http stop");
  });

  test("help comes from the report and the interfaces", async () => {
    const root = await ok("--help");
    assert.match(root, /power +Bench supply/);
    assert.match(root, /serial +Serial port client/);
    assert.match(await ok("http --help"), /get-url[\s\S]*Parts:\n +storage/);
    assert.match(await ok("power cycle --help"), /Usage: j power cycle \[OPTIONS\][\s\S]*-w, --wait/);
    assert.match(await ok("shell --help"), /fail +Fails/);
  });

  test("wrong words exit with 2 and failures with 1", async () => {
    for (const [words, code, stderr] of [
      ["", 2, /Drivers:/],
      ["pwer on", 2, /No such command 'pwer'. Did you mean 'power'\?/],
      ["power on now", 2, /Unexpected argument now/],
      ["power --wat", 2, /Unknown option '--wat'/],
      ["power rescue", 1, /method rescue not found/],
      ["flasher flash", 2, /FILE argument is required/],
      ["flasher flash /nonexistent", 1, /No such file or directory: '\/nonexistent'/],
      ["card flash -t x:package.json", 1, /target is not supported/],
      ["files exists nothing", 1, /path nothing does not exist/],
      ["shell say -e WORD", 2, /Use KEY=VALUE/],
    ] as const) {
      const result = await j(words);
      assert.equal(result.code, code, words);
      assert.match(result.stderr, stderr, words);
    }
    const lost = await run(process.execPath, ["dist/j.js", "power", "on"], {
      env: { JUMPSTARTER_HOST: "/nonexistent" },
    });
    assert.equal(lost.code, 1);
    assert.match(lost.stderr, /no exporter answers at \/nonexistent/);
    const nowhere = await run(process.execPath, ["dist/j.js"], { env: { JUMPSTARTER_HOST: "" } });
    assert.match(nowhere.stderr, /JUMPSTARTER_HOST not set/);
  });

  test("a shell method gets its words as they are and gives its exit code", async () => {
    assert.equal(await ok("shell say -e WORD=hello -e X=1 --help -x y"), "hello --help -x y\n");
    const failed = await j("shell fail");
    assert.deepEqual([failed.code, failed.stderr], [42, "no\n"]);
  });

  test("images go to flashers and come back, encoded if asked for", async () => {
    const [image, packed, back] = ["image", "image.gz", "back"].map((name) => join(folder, name)) as [
      string,
      string,
      string,
    ];
    const content = Buffer.alloc(3_000_000, "jumpstarter ");
    writeFileSync(image, content);
    writeFileSync(packed, zlib.gzipSync(content));
    const returned = () => readFileSync(back).equals(content);
    for (const [there, again] of [
      [`flasher flash ${image}`, `flasher dump ${back}`],
      [`flasher flash -t boot:${packed} --compression GZIP`, `-q flasher dump ${back} --target boot`],
      [`card flash ${image}`, `card dump ${back}`],
      [`mux write-local-file ${image}`, `mux read-local-file ${back}`],
      [`files write-from-path a/b.img ${image}`, `files read-into-path a/b.img ${back}`],
    ] as const) {
      await ok(there);
      writeFileSync(back, "old");
      await ok(again);
      assert.ok(returned(), again);
    }
    const shown = await j(`flasher flash ${image}`);
    assert.match(shown.stderr, /flash \[#{24}\] 100% 2\.9\/2\.9 MiB/);
    assert.equal((await j(`-q flasher flash ${image}`)).stderr, "");
    // A dump that fails leaves neither a part nor a new file behind.
    assert.equal((await j(`flasher dump ${join(folder, "none")} --target nothing`)).code, 1);
    assert.ok(!existsSync(join(folder, "none")) && !existsSync(join(folder, "none.part")));
  });

  test("the files of a storage can be worked with", async () => {
    await ok("files write-bytes dir/one.txt", "hello\n");
    assert.equal(await ok("files read-bytes dir/one.txt"), "hello\n");
    assert.equal(await ok("files hash dir/one.txt --algo md5"), "b1946ac92492d2347c6235b4d2611184\n");
    const { content_length, mode } = JSON.parse(await ok("files stat dir/one.txt")) as Record<string, unknown>;
    assert.deepEqual([content_length, mode], [6, { is_file: true, is_dir: false }]);
    await ok("files copy dir/one.txt dir/two.txt");
    await ok("files rename dir/two.txt dir/three.txt");
    await ok("files create-dir dir/sub/");
    assert.deepEqual((await ok("files scan dir/")).trim().split("\n").sort(), [
      "dir/",
      "dir/one.txt",
      "dir/sub/",
      "dir/three.txt",
    ]);
    await ok("files delete dir/three.txt");
    await ok("files remove-all dir/sub/");
    assert.deepEqual((await ok("files list dir/")).trim().split("\n").sort(), ["dir/", "dir/one.txt"]);
    assert.equal((JSON.parse(await ok("files capability")) as Record<string, unknown>)["list"], true);
  });

  test("a forwarded port and socket carry every connection to the driver until Ctrl-C", async () => {
    const socketPath = join(folder, "forward.sock");
    for (const words of [
      ["forward-tcp", "--address", "127.0.0.1", "0"],
      ["forward-unix", socketPath],
    ]) {
      const child = spawn(process.execPath, ["dist/j.js", "board", "echo", ...words], {
        env: { ...process.env, ...env() },
        stdio: ["ignore", "pipe", "inherit"],
      });
      const [line] = (await once(child.stdout, "data")) as [Buffer];
      const [host = "", port] = line.toString().trim().split(":");
      const open = () =>
        port === undefined ? connectSocket({ path: host }) : connectSocket({ host, port: Number(port) });
      const sockets = [open(), open()];
      for (const [index, socket] of sockets.entries()) socket.end(`hello ${index}`);
      const echoed = await Promise.all(
        sockets.map(async (socket) => {
          let text = "";
          for await (const chunk of socket) text += String(chunk);
          return text;
        }),
      );
      assert.deepEqual(echoed, ["hello 0", "hello 1"]);
      child.kill("SIGINT");
      assert.deepEqual(await once(child, "exit"), [0, null]);
    }
    assert.ok(!existsSync(socketPath));
  });

  test("the serial port is piped from stdin and to stdout or a file, until Ctrl-C", async () => {
    const log = join(folder, "serial.log");
    const child = spawn(process.execPath, ["dist/j.js", "serial", "pipe", "-o", log], {
      env: { ...process.env, ...env() },
      stdio: ["pipe", "inherit", "ignore"],
    });
    child.stdin.end("version\n");
    while (!existsSync(log) || readFileSync(log, "utf8") !== "version\n") await sleep(20);
    child.kill("SIGINT");
    assert.deepEqual(await once(child, "exit"), [0, null]);
    assert.equal(await ok("serial pipe --no-output", "boot\n"), "");
    assert.equal((await j("serial pipe --append")).code, 2);
    assert.match((await j("serial start-console")).stderr, /needs a terminal/);
  });

  test("on a terminal the console is raw, and Ctrl-B three times leaves it", async () => {
    // Python's pty module stands for the terminal: it types once the console says that it has started.
    const script = `
import os, pty, sys
pid, fd = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
seen, typed = b"", 0
while True:
    try:
        data = os.read(fd, 1024)
    except OSError:
        break
    if not data: break
    seen += data
    if typed == 0 and b"3 times" in seen:
        typed = 1; os.write(fd, b"abc\\x03\\x02\\x02d")
    if typed == 1 and b"abc\\x03\\x02\\x02d" in seen:
        typed = 2; os.write(fd, b"\\x02\\x02\\x02")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) + (0 if typed == 2 else 100))
`;
    const console = await run("python3", ["-c", script, process.execPath, "dist/j.js", "serial", "start-console"], {
      env: env(),
      timeoutMs: 60_000,
    });
    assert.equal(console.code, 0, console.stderr);
  });

  test("what the exporter logs is shown on demand", async () => {
    const { stderr } = await j("--log-level info power cycle --wait 1");
    assert.match(stderr, /INFO +power off/);
  });
});
