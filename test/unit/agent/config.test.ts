import assert from "node:assert/strict";
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { describeProblem, inspectConfig, loadConfig } from "../../../agent/config/load.ts";
import type { ExporterConfig } from "../../../agent/config/schema.ts";
import { exporterDirectories, findExporterConfig } from "../../../agent/config/search.ts";
import { shippedDrivers } from "../../../agent/driver/catalog.ts";

const mockPower = "jumpstarter_driver_power.driver.MockPower";
const tcp = "jumpstarter_driver_network.driver.TcpNetwork";

function scratch(t: TestContext): string {
  const directory = mkdtempSync(join(tmpdir(), "jmp-agent-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

/** What is said about a configuration, as `line:column: …` lines, problems first. */
async function remarks(t: TestContext, text: string | Buffer, env: NodeJS.ProcessEnv = {}): Promise<string[]> {
  const file = join(scratch(t), "x.yaml");
  writeFileSync(file, text);
  const { problems, warnings } = await inspectConfig(file, { catalog: shippedDrivers, env });
  return [...problems, ...warnings].map((problem) =>
    describeProblem("", problem, warnings.includes(problem) ? "warning: " : "").slice(1),
  );
}

async function load(t: TestContext, text: string, env: NodeJS.ProcessEnv = {}): Promise<ExporterConfig> {
  const file = join(scratch(t), "x.yaml");
  writeFileSync(file, text);
  return (await loadConfig(file, { catalog: shippedDrivers, env })).config;
}

const unplaced = (lines: string[]) => lines.map((line) => line.replace(/^\d+:\d+: /, ""));

/** A configuration with these lines beside a name. */
const named = (lines: string) => `metadata: {name: a}\n${lines}`;

test("direct mode needs a name and drivers only; everything else has its default", async (t) => {
  assert.deepEqual(await load(t, named(`export: {power: {type: ${mockPower}}}`)), {
    apiVersion: "jumpstarter.dev/v1alpha1",
    kind: "ExporterConfig",
    metadata: { name: "a", namespace: null },
    endpoint: null,
    token: null,
    tls: { ca: "", insecure: false },
    grpcOptions: {},
    description: null,
    motd: null,
    hooks: { beforeLease: null, afterLease: null },
    failureDetection: { maxRapidFailures: 5, rapidFailureWindow: 60 },
    exitOnLeaseEnd: false,
    export: { power: { type: mockPower, config: {}, children: {}, methodsDescription: {} } },
  });
});

test("a file as `jmp config` writes it is accepted without a word", async (t) => {
  const dump = `apiVersion: jumpstarter.dev/v1alpha1
kind: ExporterConfig
metadata:
  namespace: lab
  name: bench-1
endpoint: c:8082
tls:
  ca: ''
  insecure: false
token: t0ken
grpcOptions: {}
description: null
motd: null
export:
  power:
    type: ${mockPower}
    description: null
    methods_description: {}
    config: {}
    children: {}
  grp:
    children:
      a:
        ref: power
hooks:
  beforeLease: null
  afterLease: null
failureDetection:
  maxRapidFailures: 5
  rapidFailureWindow: 60
exitOnLeaseEnd: false
`;
  assert.deepEqual(await remarks(t, dump), []);
  const config = await load(t, dump);
  assert.equal(config.token, "t0ken");
  assert.deepEqual(config.export["grp"], { children: { a: { ref: "power" } } });
});

test("every key: what it takes in all its spellings", async (t) => {
  const config = await load(
    t,
    `metadata: {name: a, namespace: null}
endpoint: host:443
token: "123"
tls: {ca: LS0tLS1CRUdJTg==, insecure: yes}
grpcOptions: {grpc.keepalive_time_ms: 20000, grpc.primary_user_agent: x, grpc.keepalive_permit_without_calls: true}
description: Board
motd: Hello
export: {}
hooks:
  before_lease: {script: j power on, exec_: /bin/bash, timeout: "5", on_failure: endLease}
  afterLease: {script: j power off, exec: null, onFailure: exit}
failureDetection: {max_rapid_failures: 3, rapidFailureWindow: 30.0}
exitOnLeaseEnd: "on"
alias: whatever
`,
  );
  assert.deepEqual(config, {
    apiVersion: "jumpstarter.dev/v1alpha1",
    kind: "ExporterConfig",
    metadata: { name: "a", namespace: null },
    endpoint: "host:443",
    token: "123",
    tls: { ca: "LS0tLS1CRUdJTg==", insecure: true },
    grpcOptions: {
      "grpc.keepalive_time_ms": 20_000,
      "grpc.primary_user_agent": "x",
      "grpc.keepalive_permit_without_calls": 1,
    },
    description: "Board",
    motd: "Hello",
    export: {},
    hooks: {
      beforeLease: { script: "j power on", exec: "/bin/bash", timeout: 5, onFailure: "endLease" },
      afterLease: { script: "j power off", exec: null, timeout: 120, onFailure: "exit" },
    },
    failureDetection: { maxRapidFailures: 3, rapidFailureWindow: 30 },
    exitOnLeaseEnd: true,
  });
});

test("every key: what it refuses, and where that stands", async (t) => {
  const refused: [string, string][] = [
    ["apiVersion: v2", '2:13: apiVersion: must be "jumpstarter.dev/v1alpha1"'],
    ["kind: Pod", '2:7: kind: must be "ExporterConfig"'],
    ["endpoint: 5", "2:11: endpoint: must be a string, not number"],
    ["token: [a]", "2:1: token: must be a string, not list"],
    ["tls: null", "2:6: tls: must be a map, not null"],
    ["tls: {ca: '%%'}", "2:11: tls.ca: must be base64 of PEM certificates"],
    ["tls: {insecure: maybe}", "2:17: tls.insecure: must be true or false"],
    [
      "grpcOptions: {a: 1.5}",
      "2:18: grpcOptions.a: must be a string, not number; or must be a whole number, not number; or must be a boolean, not number",
    ],
    ["description: {}", "2:1: description: must be a string, not map"],
    ["motd: 1", "2:7: motd: must be a string, not number"],
    ["export: null", "2:9: export: must be a map, not null"],
    ["export:", "2:1: export: must be a map, not null"],
    ["export: [a]", "2:1: export: must be a map, not list"],
    ["hooks: null", "2:8: hooks: must be a map, not null"],
    ["hooks: {beforeLease: {}}", "2:9: hooks.beforeLease.script: is missing, must be a string"],
    [
      "hooks: {beforeLease: {script: x, timeout: 1.5}}",
      "2:43: hooks.beforeLease.timeout: must be a whole number, not number",
    ],
    [
      "hooks: {after_lease: {script: x, on_failure: no}}",
      '2:46: hooks.afterLease.onFailure: must be one of "warn", "endLease", "exit"',
    ],
    ["failureDetection: {maxRapidFailures: -1}", "2:38: failureDetection.maxRapidFailures: must not be negative"],
    ["failureDetection: 5", "2:19: failureDetection: must be a map, not number"],
    ["exitOnLeaseEnd: later", "2:17: exitOnLeaseEnd: must be true or false"],
  ];
  for (const [line, expected] of refused) assert.deepEqual(await remarks(t, named(line)), [expected]);
  assert.deepEqual(await remarks(t, "metadata: {name: a, lables: {}}"), ["1:21: metadata.lables: unknown key"]);
  assert.deepEqual(await remarks(t, "metadata: {name: ''}"), ["1:12: metadata.name: must not be empty"]);
  assert.deepEqual(await remarks(t, "- a"), ["1:1: must be a map, not list"]);
});

test("unknown keys are warnings that say what was meant", async (t) => {
  assert.deepEqual(
    await remarks(
      t,
      named(`grpcConfig: {}
failure_detection: {}
exit_on_lease_end: yes
endpont: x
hooks: {beforeLease: {script: x, tmeout: 5}}
tls: {cert: x}
export: {p: {type: ${mockPower}, descripton: x}}`),
    ),
    [
      "2:1: warning: grpcConfig: is read by no exporter, write grpcOptions",
      "3:1: warning: failure_detection: unknown key, did you mean failureDetection?",
      "4:1: warning: exit_on_lease_end: unknown key, did you mean exitOnLeaseEnd?",
      "5:1: warning: endpont: unknown key, did you mean endpoint?",
      "6:34: warning: hooks.beforeLease.tmeout: unknown key, did you mean timeout?",
      "7:7: warning: tls.cert: unknown key, allowed are ca, insecure",
      "8:63: warning: export.p.descripton: unknown key, did you mean description?",
    ],
  );
});

test("name and namespace come from the environment where the file has none", async (t) => {
  const env = { JMP_NAME: "from-env", JMP_NAMESPACE: "lab" };
  assert.deepEqual((await load(t, "export: {}", env)).metadata, { name: "from-env", namespace: "lab" });
  assert.deepEqual((await load(t, named("export: {}"), env)).metadata, { name: "a", namespace: "lab" });
  assert.deepEqual(await remarks(t, "export: {}"), ["1:1: metadata.name: is missing; give it here or in JMP_NAME"]);
});

test("a driver entry has one of three shapes", async (t) => {
  const config = await load(
    t,
    named(`export:
  driver: {type: ${mockPower}, ref: ignored, config: null, methods_description: {on: Now}}
  group: {children: {inner: {ref: driver}}}
  empty: {}
  link: {ref: group.inner}`),
  );
  assert.deepEqual(config.export, {
    driver: { type: mockPower, config: {}, children: {}, methodsDescription: { on: "Now" } },
    group: { children: { inner: { ref: "driver" } } },
    empty: { children: {} },
    link: { ref: "group.inner" },
  });

  const shapes = "a driver (type: …), a group (children: …) or a link (ref: …)";
  const refused: [string, string][] = [
    ["5", `export.p: must be ${shapes}`],
    ["null", `export.p: must be ${shapes}`],
    ["{type: 5}", "export.p.type: must be a string, not number"],
    ["{type: null}", "export.p.type: must be a string, not null"],
    ["{typ: x}", "export.p.typ: unknown key, did you mean type?"],
    ["{config: {}}", `export.p.config: nothing says what this is: it must be ${shapes}`],
    ["{children: {}, ref: x}", "export.p.ref: a group cannot also be a link, drop ref or children"],
    ["{ref: 5}", "export.p.ref: must be a string, not number"],
    ["{ref: nowhere}", "export.p: Proxy driver p references nonexistent driver nowhere"],
    [`{type: ${mockPower}, config: []}`, "export.p.config: must be a map, not list"],
    [
      `{type: ${mockPower}, methods_description: {on: 5}}`,
      "export.p.methods_description.on: must be a string, not number",
    ],
    [`{type: ${tcp}, config: {host: x, port: 1, prt: 5}}`, "export.p.config.prt: unknown key, did you mean port?"],
    [
      `{type: ${mockPower}, config: {log_level: LOUD}}`,
      'export.p.config.log_level: must be one of "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"',
    ],
    ["{type: x}", "export.p.type: x doesn't look like a class path"],
    [
      "{type: a.b}",
      "export.p.type: Driver 'a.b' is not installed. Please check exporter configuration. A Python that has Jumpstarter and this class would run it.",
    ],
  ];
  for (const [entry, expected] of refused) {
    assert.deepEqual(unplaced(await remarks(t, named(`export: {p: ${entry}}`)))[0], expected);
  }
  for (const key of ["description", "methods_description", "children"]) {
    const said = unplaced(await remarks(t, named(`export: {p: {type: ${mockPower}, config: {${key}: {}}}}`)));
    assert.ok(said.includes(`export.p.config.${key}: stands beside config, not in it`), said.join("\n"));
  }
  assert.deepEqual(unplaced(await remarks(t, named("export: {p: {children: {}, config: {}}, a.b: {}}"))), [
    "warning: export.p.config: has no effect without type",
    "warning: export.a.b: no ref can lead to a driver whose name is empty or contains a dot",
  ]);
});

test("all problems are told at once, in the order of their lines", async (t) => {
  const said = await remarks(
    t,
    `metadata: {}
endpoint: 5
export:
  outer:
    children:
      one: {type: jumpstarter_driver_power.driver.MockPowr}
      two: {type: jumpstarter_driver_network.driver.TcpNetwork, config: {hst: x, port: far}}
`,
  );
  assert.deepEqual(
    said.map((line) => line.replace(/^(\d+):\d+: /, "$1 ")),
    [
      "1 metadata.name: is missing; give it here or in JMP_NAME",
      "2 endpoint: must be a string, not number",
      "6 export.outer.children.one.type: Driver 'jumpstarter_driver_power.driver.MockPowr' is not installed. " +
        `Please check exporter configuration. Did you mean ${mockPower}?`,
      "7 export.outer.children.two.config.host: is missing, must be a string",
      "7 export.outer.children.two.config.hst: unknown key, did you mean host?",
      "7 export.outer.children.two.config.port: must be a number",
    ],
  );
});

test("plain words of YAML mean what they mean to the Python exporter", async (t) => {
  const options = (
    await load(
      t,
      named(
        `grpcOptions: {a: 0o14, b: 014, c: 1e3, d: 52:54:00:12:34:56, e: 2024-01-02, f: y, g: -0x1F, h: 1_000, i: off, j: 0b11}`,
      ),
    )
  ).grpcOptions;
  assert.deepEqual(options, {
    ...{ a: "0o14", b: 12, c: "1e3", d: "52:54:00:12:34:56", e: "2024-01-02" },
    ...{ f: "y", g: -31, h: 1_000, i: 0, j: 3 },
  });
});

test("anchors, aliases and merge keys work, and errors behind them keep a place", async (t) => {
  const config = await load(
    t,
    named(`x-base: &base {type: ${mockPower}, config: {log_level: debug}}
export:
  a: *base
  b: {<<: *base, description: second}`),
  );
  assert.equal((config.export["b"] as { description?: string }).description, "second");
  assert.deepEqual(
    (await remarks(t, named(`export:\n  a: &a {type: ${tcp}, config: {host: x, port: 1, prt: 1}}\n  b: *a`))).slice(
      0,
      2,
    ),
    [
      "3:89: export.a.config.prt: unknown key, did you mean port?",
      "3:89: export.b.config.prt: unknown key, did you mean port?",
    ],
  );
});

test("files that are no sound YAML, or too much of it, are refused with a place", async (t) => {
  const bomb = ["a: &a [x,x,x,x,x,x,x,x,x]"];
  for (const [above, name] of [..."abcdefgh"].map((name, index, all) => [name, all[index + 1] ?? "z"] as const)) {
    bomb.push(`${name}: &${name} [${Array<string>(9).fill(`*${above}`).join(",")}]`);
  }
  const refused: [string, RegExp][] = [
    ["a: 1\na: 2\n", /^2:1: this key is given twice; keys must be unique$/],
    ["a: [1,\n", /^2:1: Flow sequence/],
    ["a: b: c", /^1:4: Nested mappings/],
    ["a: 1\n---\nb: 2\n", /^2:1: only one document per file is allowed$/],
    ["", /^1:1: is empty$/],
    ["a: *x", /^1:4: unresolved alias/i],
    ["a: !!python/object:os.system x", /^1:4: Unresolved tag/],
    ["? [a]\n: 1", /^1:3: a key must be a word, not a list or a map$/],
    ["a: &x\n  b: *x\n", /contains itself$/],
    [bomb.join("\n"), /^1:\d+: repeats too much by aliases$/],
    ["[".repeat(50_000), /^1:1: is nested deeper than 64 levels$/],
    ["- ".repeat(50_000), /^1:1: is nested deeper than 64 levels$/],
    ["{a: ".repeat(200) + "}".repeat(200), /^1:1: is nested deeper than 64 levels$/],
  ];
  for (const [text, expected] of refused) assert.match((await remarks(t, text))[0] ?? "", expected, text.slice(0, 40));
  await assert.rejects(remarks(t, Buffer.from([0x61, 0x3a, 0xff])), /is not UTF-8 text/);
  await assert.rejects(remarks(t, " ".repeat(1024 * 1024 + 1)), /is larger than 1048576 bytes/);
});

test("constructor is a name like any other, __proto__ is none", async (t) => {
  assert.deepEqual(await remarks(t, named("export: {constructor: {type: x}}")), [
    "2:30: export.constructor.type: x doesn't look like a class path",
  ]);
  assert.deepEqual(await remarks(t, named("export: {__proto__: {}}")), ["2:10: __proto__ cannot be a key"]);
});

test("a secret never stands in an error", async (t) => {
  const said = await remarks(t, named("token: {s3cret: 1}\nendpoint: [s3cret]"));
  assert.doesNotMatch(said.join("\n"), /s3cret/);
});

test("loading throws all problems as lines, for people and for editors", async (t) => {
  const file = join(scratch(t), "x.yaml");
  writeFileSync(file, "metadata: {name: a}\nkind: Pod\nendpoint: 5\n");
  await assert.rejects(loadConfig(file, { catalog: shippedDrivers }), {
    code: "E_CONFIG",
    message: `${file}:2:7: kind: must be "ExporterConfig"\n${file}:3:11: endpoint: must be a string, not number`,
  });
  await assert.rejects(loadConfig(`${file}.no`, { catalog: shippedDrivers }), /\[Errno 2\] No such file or directory/);
});

test("an alias is looked for in the user's directory, then in the system's", async (t) => {
  const [user, system] = [join(scratch(t), "user"), join(scratch(t), "system")];
  for (const directory of [user, system]) mkdirSync(directory);
  writeFileSync(join(system, "both.yaml"), "");
  writeFileSync(join(user, "both.yaml"), "");
  writeFileSync(join(system, "one.yaml"), "");
  assert.equal(await findExporterConfig("both", { user, system }), join(user, "both.yaml"));
  assert.equal(await findExporterConfig("one", { user, system }), join(system, "one.yaml"));
  await assert.rejects(findExporterConfig("none", { user, system }), (error: Error) => error.message.includes(user));
  for (const alias of ["", ".", "..", "a/b", "a\\b"]) {
    await assert.rejects(findExporterConfig(alias, { user, system }), {
      message: `Invalid exporter alias '${alias}': must not contain path separators or be '.' / '..'`,
    });
  }
});

test("the user's directory follows JMP_CLIENT_CONFIG_HOME, then XDG_CONFIG_HOME", () => {
  const user = (env: NodeJS.ProcessEnv) => exporterDirectories(env).user;
  assert.equal(user({ JMP_CLIENT_CONFIG_HOME: "/j", XDG_CONFIG_HOME: "/x" }), "/j/exporters");
  assert.equal(user({ XDG_CONFIG_HOME: "/x" }), "/x/jumpstarter/exporters");
  assert.match(user({}), /\/\.config\/jumpstarter\/exporters$/);
  assert.equal(exporterDirectories({}).system, "/etc/jumpstarter/exporters");
});

test("the examples are sound", async () => {
  for (const name of readdirSync("examples").filter((file) => file.endsWith(".yaml"))) {
    const { problems, warnings } = await inspectConfig(join("examples", name), { catalog: shippedDrivers, env: {} });
    assert.deepEqual([...problems, ...warnings], [], name);
  }
});

test("a token that every user of the machine can read is said", async (t) => {
  const file = join(scratch(t), "bench.yaml");
  writeFileSync(file, named("token: secret"));
  const warnings = async () => (await loadConfig(file, { catalog: shippedDrivers, env: {} })).warnings;
  chmodSync(file, 0o644);
  assert.deepEqual(await warnings(), [
    `${file}: every user of this machine can read the token in it: chmod 600 ${file}`,
  ]);
  chmodSync(file, 0o640);
  assert.deepEqual(await warnings(), []);
  writeFileSync(file, named("endpoint: x"));
  chmodSync(file, 0o644);
  assert.deepEqual(await warnings(), []);
});
