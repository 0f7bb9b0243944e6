/** The container recipe, step by step in a chroot, as there is no engine here; and the manifest's promises. */
import assert from "node:assert/strict";
import { copyFileSync, cpSync, mkdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { test } from "node:test";
import { parse } from "yaml";
import { freePort, scratch } from "../sim/agent.ts";
import { debianChroot, noChroot } from "../sim/debian-chroot.ts";
import { eventually } from "../sim/rig.ts";
import { buildPackage } from "./packages.ts";

/** Instructions and what follows them, lines that end in a backslash joined. */
const recipe = readFileSync("packaging/Containerfile", "utf8")
  .replaceAll(/\\\n\s*/g, "")
  .split("\n")
  .filter((line) => line !== "" && !line.startsWith("#"))
  .map((line) => [line.slice(0, line.indexOf(" ")), line.slice(line.indexOf(" ") + 1)] as const);

function given(instruction: string): string {
  const found = recipe.findLast(([name]) => name === instruction);
  assert.ok(found, instruction);
  return found[1];
}

test("what the Containerfile builds runs as its user", { skip: noChroot, timeout: 600_000 }, async (t) => {
  const deb = await buildPackage(scratch(t), "amd64", "1.0");
  const debian = await debianChroot(t, "trixie");
  copyFileSync(deb, join(debian.root, "tmp", basename(deb)));
  await debian.run("sh", "-c", given("RUN"));
  await assert.rejects(debian.run("sh", "-c", "command -v systemctl"), "all of systemd is not in there");
  const variables = given("ENV").split(/\s+/);
  const [entry = "", ...rest] = JSON.parse(given("ENTRYPOINT")) as string[];
  const [run, ...words] = JSON.parse(given("CMD")) as string[];
  assert.deepEqual([run, ...words], ["run", "--all", "--watch"]);
  mkdirSync(join(debian.root, "etc/jumpstarter/exporters"), { recursive: true });
  cpSync("examples/mock.yaml", join(debian.root, "etc/jumpstarter/exporters/mock.yaml"));
  const user = ["setpriv", `--reuid=${given("USER")}`, `--regid=${given("USER")}`, "--clear-groups"] as const;
  const port = await freePort();
  // In direct mode, as there is no controller; the words that the image has by default are for leases.
  const direct = ["run", "--exporter-config", "/etc/jumpstarter/exporters/mock.yaml"].concat([
    "--tls-grpc-listener",
    `127.0.0.1:${port}`,
    "--tls-grpc-insecure",
  ]);
  const agent = debian.spawn([...user, "--no-new-privs", "env", ...variables, entry, ...rest, ...direct]);
  let said = "";
  for (const stream of [agent.stdout, agent.stderr]) stream?.on("data", (chunk: Buffer) => (said += chunk.toString()));
  await eventually("the agent is ready", () => /is ready/.test(said), 60_000).catch((error: unknown) => {
    throw new Error(said, { cause: error });
  });
  const j = ["JUMPSTARTER_HOST=127.0.0.1:" + port, "JMP_GRPC_INSECURE=1", "j", "power", "on"];
  await debian.run(...user, "env", ...j);
});

interface Pod {
  readonly securityContext: { readonly runAsNonRoot: boolean; readonly runAsUser: number };
  readonly containers: readonly Container[];
  readonly volumes: readonly { readonly name: string }[];
}
interface Container {
  readonly args: readonly string[];
  readonly securityContext: object;
  readonly volumeMounts: readonly { readonly name: string; readonly mountPath: string }[];
}

test("the manifest runs what the image has, without privileges", () => {
  const manifest = parse(readFileSync("packaging/kubernetes.yaml", "utf8")) as {
    spec: { template: { spec: Pod } };
  };
  const { securityContext, containers, volumes } = manifest.spec.template.spec;
  assert.equal(securityContext.runAsNonRoot, true);
  assert.match(given("RUN"), new RegExp(`useradd --system --uid ${securityContext.runAsUser} `));
  const [agent] = containers;
  assert.ok(agent);
  assert.deepEqual(agent.securityContext, {
    allowPrivilegeEscalation: false,
    readOnlyRootFilesystem: true,
    capabilities: { drop: ["ALL"] },
  });
  assert.deepEqual(
    agent.volumeMounts.map(({ name }) => name),
    volumes.map(({ name }) => name),
  );
  // What the image's variables name must be writable, as its root is not.
  for (const variable of given("ENV").split(/\s+/)) {
    const folder = variable.split("=")[1] ?? "";
    assert.ok(
      agent.volumeMounts.some(({ mountPath }) => mountPath === folder),
      variable,
    );
  }
});
