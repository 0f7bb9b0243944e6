import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { connect as connectClient } from "../../../agent/client/connect.ts";
import { parseListener } from "../../../agent/cli/listeners.ts";
import { power } from "../../../boards/power/interface.ts";
import { errorsDocument } from "../../../scripts/errors-doc.ts";

const config = `metadata: {name: bench}
export:
  power: {type: jumpstarter_driver_power.driver.MockPower}
`;

interface Finished {
  code: number | null;
  out: string;
  err: string;
}

function scratch(t: TestContext): string {
  const directory = mkdtempSync(join(tmpdir(), "jmp-agent-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

/** Starts the command line from source. */
function start(t: TestContext, args: string[], env: NodeJS.ProcessEnv = {}) {
  const child = spawn(process.execPath, ["--import", "tsx", "agent/cli/jmp-agent.ts", ...args], {
    env: { ...process.env, JMP_NAME: "", JMP_NAMESPACE: "", JMP_PASSPHRASE: undefined, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const result: Finished = { code: null, out: "", err: "" };
  child.stdout.on("data", (chunk: Buffer) => (result.out += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (result.err += chunk.toString()));
  const finished = once(child, "close").then(([code]) => ({ ...result, code: code as number | null }));
  t.after(async () => {
    if (child.exitCode === null && child.signalCode === null) child.kill("SIGKILL");
    await finished;
  });
  const ready = async () => {
    while (!result.out.includes("is ready: ")) {
      if (child.exitCode !== null) throw new Error(`ended early: ${result.out}${result.err}`);
      await Promise.race([once(child.stdout, "data"), finished]);
    }
  };
  return { child, finished, ready, result };
}

const cli = (t: TestContext, args: string[], env?: NodeJS.ProcessEnv) => start(t, args, env).finished;

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, "close");
  return port;
}

async function isOpen(port: number): Promise<boolean> {
  const socket = connect(port, "127.0.0.1");
  try {
    await once(socket, "connect");
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}

test("run refuses words that do not go together, with the texts and exit codes of the Python exporter", async (t) => {
  const file = join(scratch(t), "x.yaml");
  writeFileSync(file, config);
  const listener = ["--exporter-config", file, "--tls-grpc-listener"];
  const refused: [string[], string][] = [
    [[], "one of --exporter, --exporter-config should be specified"],
    [["--exporter", "a", "--exporter-config", "b"], "only one of --exporter, --exporter-config should be specified"],
    [["--all", "--exporter", "a"], "--all cannot be combined with --exporter or --exporter-config"],
    [["--exporter", "a", "--exporter", "b", "--unix", "x"], "a listener serves one exporter"],
    [["--exporter-config", file, "--unix", "/tmp/s", "--audit-log", "/no/such/place/x"], "--audit-log: [Errno 2]"],
    [
      ["--exporter", "a", "--watch", "--unix", "x"],
      "--watch and --exit-on-lease-end are for exporters that are leased",
    ],
    [
      ["--exporter", "a", "--tls-grpc-insecure"],
      "--tls-grpc-insecure, --tls-cert, --tls-key, and --passphrase require --tls-grpc-listener",
    ],
    [
      ["--exporter", "a", "--unix", "x", "--passphrase", "p"],
      "--tls-grpc-insecure, --tls-cert, --tls-key, and --passphrase require --tls-grpc-listener",
    ],
    [[...listener, "1234"], "--tls-grpc-listener requires either --tls-grpc-insecure or --tls-cert and --tls-key"],
    [
      [...listener, "1234", "--tls-cert", "x"],
      "--tls-grpc-listener requires either --tls-grpc-insecure or --tls-cert and --tls-key",
    ],
    [
      [...listener, "1234", "--tls-grpc-insecure", "--tls-key", "x"],
      "--tls-grpc-insecure cannot be combined with --tls-cert / --tls-key",
    ],
    [[...listener, "0", "--tls-grpc-insecure"], "port must be between 1 and 65535, got 0"],
    [[...listener, "host:http", "--tls-grpc-insecure"], "port must be an integer, got 'http'"],
    [[...listener, "1234", "--tls-grpc-insecure", "--passphrase", ""], "the passphrase must not be empty"],
    [[...listener, "1234", "--tls-grpc-insecure", "--passphrase", "é"], "printable ASCII"],
    [
      [...listener, "1", "--tls-grpc-insecure", "--passphrase", "a", "--passphrase-file", "b"],
      "--passphrase cannot be combined with --passphrase-file",
    ],
    [[...listener, "1", "--tls-cert", "/no/cert", "--tls-key", "/no/key"], "--tls-cert: [Errno 2] No such file"],
    [
      ["--exporter-config", file, "--unix", "/tmp/socket:1234"],
      "clients would take /tmp/socket:1234 for a TCP address",
    ],
    [["--exporter-config", file, "--unix", `/tmp/${"x".repeat(120)}`], "the path is longer than the 107 bytes"],
    [["--exporter-confg", file], "no such option: --exporter-confg, did you mean --exporter-config?"],
    [["--exporter-config"], "--exporter-config needs a value"],
    [["--log-level", "loud"], "--log-level must be one of debug, info, warning, error, critical"],
    [["--tls-grpc-insecure=yes"], "--tls-grpc-insecure does not take a value"],
    [["surplus"], "unexpected argument: surplus"],
  ];
  // A few at a time: each is a process of its own.
  for (let index = 0; index < refused.length; index += 3) {
    await Promise.all(
      refused.slice(index, index + 3).map(async ([args, message]) => {
        const { code, err } = await cli(t, ["run", ...args]);
        assert.ok(err.includes(message), `${args.join(" ")}: ${err}`);
        assert.equal(code, 2, err);
      }),
    );
  }
});

test("a configuration that cannot be loaded ends run with exit code 1 and every problem", async (t) => {
  const directory = scratch(t);
  const file = join(directory, "x.yaml");
  writeFileSync(file, "metadata: {name: a}\nkind: Pod\nexport: {p: {type: x.y}}\n");
  const socket = join(directory, "s");
  const { code, err } = await cli(t, ["run", "--exporter-config", file, "--unix", socket]);
  assert.equal(code, 1);
  assert.match(
    err,
    /^Error: Failed to load config:\n.*x\.yaml:2:7: kind: must be "ExporterConfig"\n.*x\.yaml:3:20: export/,
  );
  assert.equal(existsSync(socket), false, "nothing was opened");

  const missing = await cli(t, ["run", "--exporter", "nope", "--unix", socket], { JMP_CLIENT_CONFIG_HOME: directory });
  assert.equal(missing.code, 1);
  assert.match(missing.err, new RegExp(`^Error: Failed to load config: no exporter 'nope': ${directory}`));
});

test("--exporter finds its file; the unix socket is private, and gone after SIGTERM", async (t) => {
  const directory = scratch(t);
  execFileSync("mkdir", [join(directory, "exporters")]);
  writeFileSync(join(directory, "exporters", "bench.yaml"), config);
  const socket = join(directory, "s");
  const agent = start(
    t,
    ["--log-level", "WARNING", "run", "--exporter", "bench", "--unix", socket, "--log-level=info"],
    {
      JMP_CLIENT_CONFIG_HOME: directory,
    },
  );
  await agent.ready();
  assert.equal(statSync(socket).mode & 0o777, 0o600);
  const client = await connectClient({ host: socket });
  t.after(() => client.close());
  await client.find("power")?.as(power).on();
  agent.child.kill("SIGTERM");
  const { code, out } = await agent.finished;
  assert.equal(code, 143);
  assert.equal(existsSync(socket), false);

  const lines = out
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, string>);
  for (const line of lines) {
    assert.equal(line["component"], "exporter");
    assert.equal(line["exporter"], "bench");
    assert.match(line["ts"] ?? "", /^\d{4}-\d\d-\d\dT.*Z$/);
    assert.equal(line["level"], "info");
  }
  assert.ok(lines.some(({ msg }) => msg === `Exporter bench is ready: JUMPSTARTER_HOST=${socket} j --help`));
  const done = lines.find(({ msg }) => msg === "Operation completed");
  assert.deepEqual([done?.["logger"], done?.["operation"], done?.["driver_type"]], ["driver.MockPower", "on", "power"]);
});

test("what stands at the socket's path: a dead one is replaced, anything else is left alone", async (t) => {
  const directory = scratch(t);
  const file = join(directory, "x.yaml");
  writeFileSync(file, config);
  const socket = join(directory, "s");
  // Killed without a chance to clean up.
  const dead = spawn(process.execPath, ["-e", `require("net").createServer().listen(${JSON.stringify(socket)})`]);
  while (!existsSync(socket)) await new Promise((done) => setTimeout(done, 20));
  dead.kill("SIGKILL");
  await once(dead, "exit");
  const run = ["run", "--exporter-config", file, "--unix"];
  const agent = start(t, [...run, socket]);
  await agent.ready();

  const second = await cli(t, [...run, socket]);
  assert.equal(second.code, 1);
  assert.match(second.err, /another process already serves on/);
  const occupied = await cli(t, [...run, file]);
  assert.match(occupied.err, /exists and is not a socket/);
  assert.equal(readFileSync(file, "utf8"), config);
  const nowhere = await cli(t, [...run, join(directory, "no", "s")]);
  assert.match(nowhere.err, /is not a directory/);
  agent.child.kill("SIGQUIT");
  assert.equal((await agent.finished).code, 131);
});

test("TCP: the port answers while it runs and is closed afterwards; a taken port is a clear error", async (t) => {
  const file = join(scratch(t), "x.yaml");
  writeFileSync(file, config);
  const port = await freePort();
  const args = ["run", "--exporter-config", file, "--tls-grpc-listener", `127.0.0.1:${port}`, "--tls-grpc-insecure"];
  const agent = start(t, args);
  await agent.ready();
  assert.ok(agent.result.out.includes(`jmp shell --tls-grpc 127.0.0.1:${port} --tls-grpc-insecure`));
  const client = await connectClient({ host: `127.0.0.1:${port}`, insecure: true });
  t.after(() => client.close());
  const taken = await cli(t, args);
  assert.equal(taken.code, 1);
  assert.match(taken.err, /\[Errno 98\] Address already in use/);
  agent.child.kill("SIGINT");
  assert.equal((await agent.finished).code, 130);
  assert.equal(await isOpen(port), false);
});

test("the passphrase: right, wrong, missing; from option, file or environment; never shown", async (t) => {
  const directory = scratch(t);
  const file = join(directory, "x.yaml");
  writeFileSync(file, config);
  const secret = join(directory, "secret");
  writeFileSync(secret, "correct horse\n");
  const ways: [string[], NodeJS.ProcessEnv][] = [
    [["--passphrase", "correct horse"], {}],
    [["--passphrase-file", secret], {}],
    [[], { JMP_PASSPHRASE: "correct horse" }],
  ];
  for (const [args, env] of ways) {
    const port = await freePort();
    const agent = start(
      t,
      ["run", "--exporter-config", file, "--tls-grpc-listener", String(port), "--tls-grpc-insecure", ...args],
      env,
    );
    await agent.ready();
    const host = `127.0.0.1:${port}`;
    const client = await connectClient({ host, insecure: true, passphrase: "correct horse" });
    t.after(() => client.close());
    for (const passphrase of ["wrong battery", undefined]) {
      await assert.rejects(
        connectClient({ host, insecure: true, ...(passphrase === undefined ? {} : { passphrase }) }),
        {
          message: "invalid or missing passphrase",
        },
      );
    }
    assert.doesNotMatch(readFileSync(`/proc/${agent.child.pid}/cmdline`, "utf8"), /correct/);
    agent.child.kill("SIGTERM");
    const { out, err } = await agent.finished;
    assert.match(out, /authentication failed: invalid or missing passphrase for method \/jumpstarter/);
    assert.match(out, /the passphrase will be transmitted in plaintext/);
    assert.doesNotMatch(out + err, /correct horse|wrong battery/);
  }
});

test("TLS: a pair of certificate and key is served, anything else is told by file", async (t) => {
  const directory = scratch(t);
  const file = join(directory, "x.yaml");
  writeFileSync(file, config);
  const make = (name: string) =>
    execFileSync(
      "openssl",
      ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        .concat(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
        .concat(["-keyout", join(directory, `${name}.key`), "-out", join(directory, `${name}.crt`)]),
      { stdio: "ignore" },
    );
  make("a");
  make("b");
  const port = await freePort();
  const run = (cert: string, key: string) =>
    ["run", "--exporter-config", file, "--tls-grpc-listener", `127.0.0.1:${port}`].concat([
      "--tls-cert",
      join(directory, cert),
      "--tls-key",
      join(directory, key),
    ]);
  assert.match((await cli(t, run("x.yaml", "a.key"))).err, /x\.yaml is not a PEM certificate/);
  assert.match((await cli(t, run("a.crt", "x.yaml"))).err, /x\.yaml is not a PEM private key/);
  const mixed = await cli(t, run("a.crt", "b.key"));
  assert.equal(mixed.code, 1);
  assert.match(mixed.err, /b\.key does not belong to the certificate .*a\.crt/);

  const agent = start(t, run("a.crt", "a.key"));
  await agent.ready();
  const ca = readFileSync(join(directory, "a.crt"));
  const client = await connectClient({ host: `localhost:${port}`, ca: ca.toString() });
  t.after(() => client.close());
  await client.find("power")?.as(power).on();
  await assert.rejects(connectClient({ host: `localhost:${port}` }), "a certificate nobody vouches for");
});

test("SIGHUP stops an idle exporter, and a second signal does not wait for anything", async (t) => {
  const directory = scratch(t);
  const file = join(directory, "x.yaml");
  writeFileSync(file, config);
  const run = (name: string) => start(t, ["run", "--exporter-config", file, "--unix", join(directory, name)]);
  const idle = run("a");
  await idle.ready();
  idle.child.kill("SIGHUP");
  assert.equal((await idle.finished).code, 129);

  const busy = run("b");
  await busy.ready();
  const client = await connectClient({ host: join(directory, "b") });
  t.after(() => client.close());
  busy.child.kill("SIGTERM");
  busy.child.kill("SIGINT");
  assert.ok([130, 143].includes((await busy.finished).code ?? -1));
});

test("text logs are for people", async (t) => {
  const directory = scratch(t);
  const file = join(directory, "x.yaml");
  writeFileSync(file, `${config}endpont: x\n`);
  const agent = start(t, ["run", "--exporter-config", file, "--unix", join(directory, "s"), "--log-format", "text"]);
  await agent.ready();
  agent.child.kill("SIGTERM");
  const { out } = await agent.finished;
  assert.match(
    out,
    /WARN(ING)?: bench jmp-agent: .*x\.yaml:4:1: warning: endpont: unknown key, did you mean endpoint\?/,
  );
  assert.match(out, /INFO: bench jmp-agent: Exporter bench is ready: /);
});

test("check: one line per problem, JSON for tools, exit code 1 if anything is wrong", async (t) => {
  const directory = scratch(t);
  const [good, bad] = [join(directory, "good.yaml"), join(directory, "bad.yaml")];
  writeFileSync(good, `${config}tsl: {}\n`);
  writeFileSync(bad, "metadata: {name: a}\nexport: {p: {type: x.y}}\n");
  const fine = await cli(t, ["check", good]);
  assert.deepEqual(
    [fine.code, fine.out],
    [0, `${good}:4:1: warning: tsl: unknown key, did you mean tls?\n${good}: ok\n`],
  );

  const both = await cli(t, ["check", good, bad, join(directory, "none.yaml"), "--json"]);
  assert.equal(both.code, 1);
  const verdicts = JSON.parse(both.out) as {
    ok: boolean;
    problems: { line?: number; path: string; message: string }[];
  }[];
  assert.deepEqual(
    verdicts.map(({ ok }) => ok),
    [true, false, false],
  );
  assert.equal(verdicts[1]?.problems[0]?.line, 2);
  assert.equal(verdicts[1]?.problems[0]?.path, "export.p.type");
  assert.match(verdicts[2]?.problems[0]?.message ?? "", /No such file/);
  assert.equal((await cli(t, ["check"])).code, 2);
});

test("drivers: the list, one in words, one in JSON, and an unknown one", async (t) => {
  const mock = "jumpstarter_driver_power.driver.MockPower";
  const list = await cli(t, ["drivers"]);
  assert.match(list.out, new RegExp(`^ {2}${mock} +\\S`, "m"));
  const one = await cli(t, ["drivers", "jumpstarter_driver_network.driver.TcpNetwork"]);
  assert.match(one.out, /^Client: jumpstarter_driver_network\.client\.\w+$/m);
  assert.match(one.out, /^ {2}host +string, required/m);
  assert.match(one.out, /^ {2}connect: byte stream/m);
  const json = JSON.parse((await cli(t, ["drivers", mock, "--json"])).out) as {
    config: { properties: Record<string, unknown> };
    methods: { name: string; kind: string }[];
  };
  assert.ok("log_level" in json.config.properties);
  assert.deepEqual(json.methods.find(({ name }) => name === "read")?.kind, "streaming");
  const all = JSON.parse((await cli(t, ["drivers", "--json"])).out) as { type: string }[];
  assert.ok(all.length > 10 && all.every(({ type }) => type.includes(".")));
  const unknown = await cli(t, ["drivers", "MockPower"]);
  assert.equal(unknown.code, 1);
  assert.match(unknown.err, new RegExp(`did you mean ${mock}\\?`));
});

test("help and version, wherever they stand; unknown commands are told apart", async (t) => {
  const { version } = JSON.parse(readFileSync("package.json", "utf8")) as { version: string };
  for (const args of [["version"], ["--version"]]) assert.equal((await cli(t, args)).out, `${version}\n`);
  for (const args of [["--help"], ["help"]]) assert.match((await cli(t, args)).out, /Commands:\n.* check /s);
  const help = await cli(t, ["run", "--help"]);
  assert.match(help.out, /^Usage: jmp-agent run \[OPTIONS\]\n/);
  assert.match(help.out, /--unix PATH/);
  const wrong = await cli(t, ["chek"]);
  assert.equal(wrong.code, 2);
  assert.match(wrong.err, /no such command: chek, did you mean check\?/);
  assert.equal((await cli(t, [])).code, 2);
});

test("a listener is [HOST:]PORT", () => {
  assert.deepEqual(parseListener("1234"), { host: "0.0.0.0", port: 1234 });
  assert.deepEqual(parseListener(":1234"), { host: "0.0.0.0", port: 1234 });
  assert.deepEqual(parseListener("host:1234"), { host: "host", port: 1234 });
  assert.deepEqual(parseListener("[::1]:1234"), { host: "::1", port: 1234 });
  for (const text of ["", "x", "host:", "1.5", "70000"]) assert.throws(() => parseListener(text), /port must be/);
});

test("docs/errors.md is what the table of error codes says", () => {
  assert.equal(readFileSync("docs/errors.md", "utf8"), errorsDocument());
});

test("leased exporters: where to put a configuration, and that one of two with the same name is left out", async (t) => {
  const directory = scratch(t);
  const home = { JMP_CLIENT_CONFIG_HOME: directory };
  const none = await cli(t, ["run", "--all"], home);
  assert.equal(none.code, 1);
  assert.ok(none.err.includes(`Hint: put one as NAME.yaml into ${join(directory, "exporters")}`), none.err);

  const leased = config.replace("export:", "endpoint: 127.0.0.1:1\ntoken: x\nexport:");
  const files = ["one.yaml", "two.yaml"].map((name) => join(directory, name));
  for (const file of files) writeFileSync(file, leased);
  const words = files.flatMap((file) => ["--exporter-config", file]);
  const { child, finished, result } = start(t, ["run", ...words, "--log-format", "text"], home);
  while (!result.out.includes("The controller at 127.0.0.1:1 cannot be used")) {
    assert.equal(child.exitCode, null, result.out + result.err);
    await Promise.race([once(child.stdout, "data"), finished]);
  }
  child.kill("SIGTERM");
  const { code, out } = await finished;
  assert.equal(code, 143);
  assert.ok(out.includes(`${files[1]} is the same exporter as ${files[0]}: bench`), out);
});
