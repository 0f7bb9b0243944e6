// The real Python clients drive every driver of an agent in another process.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { existsSync, mkdirSync } from "node:fs";
import { createSocket } from "node:dgram";
import { createServer as createHttpServer } from "node:http";
import { createServer, type AddressInfo } from "node:net";
import { join } from "node:path";
import { after, before, describe, test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { WebSocketServer } from "ws";
import { freePort, openFiles, pssMiB, scratch, startAgent, type AgentProcess } from "../sim/agent.ts";
import { clientEnv, clientProgram, clientVersions, missingClient, run, type Finished } from "../sim/python-client.ts";

interface Bench {
  agent: AgentProcess;
  directory: string;
  tcpPort: number;
  udpPort: number;
  unixPath: string;
  wsUrl: string;
  image: { origin: string; sha256: string };
}

/** Everything the drivers talk to, and the agent itself. */
async function setUp(t: Pick<TestContext, "after">): Promise<Bench> {
  const directory = scratch(t);
  const echo = () => createServer({ allowHalfOpen: true }, (socket) => socket.on("error", () => {}).pipe(socket));
  const tcp = echo().listen(0, "127.0.0.1");
  const unixPath = join(directory, "peer.sock");
  const unix = echo().listen(unixPath);
  const udp = createSocket("udp4", (message, peer) => udp.send(message, peer.port, peer.address));
  udp.bind(0, "127.0.0.1");
  const ws = new WebSocketServer({ host: "127.0.0.1", port: 0 });
  ws.on("connection", (socket) =>
    socket.on("message", (data, isBinary) => socket.send(data as Buffer, { binary: isBinary })),
  );
  const bytes = randomBytes(3_000_001);
  const http = createHttpServer((request, response) => {
    if (request.url === "/start%20here?sig=a%2Fb" || request.url === "/start")
      response.writeHead(302, { location: "/real%20image" }).end();
    else if (request.url === "/real%20image") response.end(bytes);
    else response.writeHead(404).end();
  }).listen(0, "127.0.0.1");
  await Promise.all([tcp, unix, udp, ws, http].map((server) => once(server, "listening")));
  t.after(() => {
    for (const server of [tcp, unix, udp, ws, http]) server.close();
  });
  const tcpPort = (tcp.address() as AddressInfo).port;
  const udpPort = udp.address().port;
  const wsUrl = `ws://127.0.0.1:${(ws.address() as AddressInfo).port}/`;

  // The board's end of a terminal: answers each line.
  const tty = join(directory, "tty");
  const socat = spawn("socat", [`PTY,link=${tty},raw,echo=0`, "SYSTEM:while read line; do echo got $line; done"], {
    stdio: "ignore",
  });
  t.after(() => socat.kill());
  while (!existsSync(tty)) await sleep(20);

  for (const name of ["storage", "http", "tftp"]) mkdirSync(join(directory, name));
  const network = (name: string, config: Record<string, unknown>) => ({
    type: `jumpstarter_driver_network.driver.${name}`,
    config,
  });
  const pyserial = (config: Record<string, unknown>) => ({
    type: "jumpstarter_driver_pyserial.driver.PySerial",
    config,
  });
  const opendal = (name: string) => ({ type: `jumpstarter_driver_opendal.driver.${name}` });
  const mockPower = { type: "jumpstarter_driver_power.driver.MockPower" };
  const agent = await startAgent(t, {
    power: { ...mockPower, description: "the main switch" },
    syncpower: { type: "jumpstarter_driver_power.driver.SyncMockPower" },
    board: { children: { inner: { children: { power: mockPower } } } },
    alias: { ref: "power" },
    board_alias: { ref: "board" },
    echo: network("EchoNetwork", {}),
    tcp: network("TcpNetwork", { host: "127.0.0.1", port: tcpPort }),
    secret: network("TcpNetwork", { host: "127.0.0.1", port: tcpPort, enable_address: false }),
    udp: network("UdpNetwork", { host: "127.0.0.1", port: udpPort }),
    unix: network("UnixNetwork", { path: unixPath }),
    websocket: network("WebsocketNetwork", { url: wsUrl }),
    serial: pyserial({ url: "loop://" }),
    slow: pyserial({ url: "loop://", cps: 100 }),
    tty: pyserial({ url: tty, baudrate: 115200 }),
    storage: {
      type: "jumpstarter_driver_opendal.driver.Opendal",
      config: { scheme: "fs", kwargs: { root: join(directory, "storage") }, remove_created_on_close: true },
    },
    flasher: opendal("MockFlasher"),
    mux: opendal("MockStorageMux"),
    muxflasher: opendal("MockStorageMuxFlasher"),
    shell: {
      type: "jumpstarter_driver_shell.driver.Shell",
      config: {
        methods: {
          ok: "echo fine",
          fail: "exit 42",
          both: { command: 'echo "out $WHO $1 $2"; echo err >&2', description: "writes to both" },
          hangs: { command: "sleep 60", timeout: 1 },
          lasting: 'touch "$MARKER"; trap \'rm -f "$MARKER"\' EXIT; echo started; while :; do sleep 0.1; done',
        },
      },
    },
    http: {
      type: "jumpstarter_driver_http.driver.HttpServer",
      config: { root_dir: join(directory, "http"), host: "127.0.0.1", port: await freePort() },
    },
    tftp: {
      type: "jumpstarter_driver_tftp.driver.Tftp",
      config: { root_dir: join(directory, "tftp"), host: "127.0.0.1", port: await freePort() },
    },
    uboot: {
      type: "jumpstarter_driver_uboot.driver.UbootConsole",
      children: { power: { ref: "power" }, serial: { ref: "serial" } },
    },
  });
  const image = {
    origin: `http://127.0.0.1:${(http.address() as AddressInfo).port}`,
    sha256: createHash("sha256").update(bytes).digest("hex"),
  };
  return { agent, directory, tcpPort, udpPort, unixPath, wsUrl, image };
}

for (const version of clientVersions.filter((each) => !process.env["ONLY"] || each === process.env["ONLY"])) {
  describe(`Python client ${version}`, { skip: missingClient(version) }, () => {
    const cleanUps: (() => unknown)[] = [];
    let bench: Bench;
    const start = (sections: readonly string[]) =>
      run(clientProgram(version, "python"), ["test/conformance/drive.py", ...sections], {
        env: clientEnv(bench.agent.socketPath),
        timeoutMs: 300_000,
      });
    const passed = async (section: string, running: Promise<Finished>) => {
      const { stdout, stderr } = await running;
      const told = `${section}:\n${stdout}\n${stderr}\nagent:\n${bench.agent.output()}`;
      assert.match(stdout, new RegExp(`^passed ${section}$`, "m"), told);
    };
    const drive = async (section: string, ...args: string[]) => {
      const running = start([[section, ...args].join()]);
      await passed(section, running);
      assert.equal((await running).code, 0, (await running).stderr);
    };

    /** What one process of the client does, one after the other: it takes seconds to start. */
    let whole: Promise<Finished> | undefined;
    const sections = (): readonly (readonly string[])[] => [
      ["power"],
      ["echo", "64"],
      ["network", String(bench.tcpPort), String(bench.udpPort), bench.unixPath, bench.wsUrl],
      ["serial"],
      ["pty", "ping"],
      ["storage"],
      ["flash", "64"],
      // Before 0.9 the client itself rewrites percent-encoded URLs.
      ["flash_url", bench.image.origin + (version < "0.9" ? "/start" : "/start%20here?sig=a%2Fb"), bench.image.sha256],
      ["mux"],
      ["shell"],
      ["logs"],
      ["errors"],
    ];
    const part = (section: string) => {
      whole ??= start(sections().map((words) => words.join()));
      return passed(section, whole);
    };

    before(async () => {
      bench = await setUp({ after: (fn) => void cleanUps.push(fn as () => unknown) });
    });
    after(async () => {
      for (const cleanUp of cleanUps.reverse()) await cleanUp();
    });
    test("power, nested and through refs", () => part("power"));
    test("64 MiB echoed through one stream", () => part("echo"));
    test("tcp, udp, unix and websocket", () => part("network"));
    test("serial over a loop with pexpect", () => part("serial"));
    test("serial on a terminal, two readers", () => part("pty"));
    test("storage", () => part("storage"));
    test("flash and dump of 64 MiB, raw and compressed", () => part("flash"));
    test("flash from a URL with redirects", () => part("flash_url"));
    test("storage muxes", () => part("mux"));
    test("shell", () => part("shell"));
    test("logs reach the client", () => part("logs"));
    test("errors have the contract's kind and text", async () => {
      await part("errors");
      assert.equal((await whole)?.code, 0);
    });
    // Its console is the serial port that another section has talked to.
    test("tftp, http and u-boot", () => drive("boot"));
    test("500 streams leave nothing open", async () => {
      const before = openFiles(bench.agent.pid);
      await drive("many_streams");
      await settles(() => openFiles(bench.agent.pid) <= before + 2);
    });
    test("cancelling a call ends what it started", () => drive("cancel", join(bench.directory, `marker-${version}`)));
    test("a client killed in the middle of an upload leaves nothing behind", async () => {
      const before = { files: openFiles(bench.agent.pid), pss: pssMiB(bench.agent.pid) };
      const ready = join(bench.directory, `ready-${version}`);
      const client = spawn(clientProgram(version, "python"), ["test/conformance/drive.py", `stall,${ready}`], {
        env: { ...process.env, ...clientEnv(bench.agent.socketPath) },
        stdio: "ignore",
      });
      await settles(() => existsSync(ready));
      client.kill("SIGKILL");
      await once(client, "exit");
      await settles(() => openFiles(bench.agent.pid) <= before.files);
      await drive("power");
    });
    test("SIGTERM ends the agent with the signal's exit code", async () => {
      assert.equal(await bench.agent.stop(), 128 + 15, bench.agent.output());
    });
  });
}

/** Waits until something holds; 20 s are far beyond what any of it takes. */
async function settles(holds: () => boolean): Promise<void> {
  for (let waited = 0; !holds(); waited += 50) {
    assert.ok(waited < 20_000, "it does not settle");
    await sleep(50);
  }
}
