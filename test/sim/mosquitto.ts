import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { freePort, scratch } from "./agent.ts";
import { createAuthority } from "./certificates.ts";

/** Why tests with Mosquitto cannot run here, or false. Never a reason in CI. */
export const noMosquitto = (() => {
  if (spawnSync("mosquitto", ["-h"]).error === undefined) return false;
  if (process.env["CI"]) throw new Error("mosquitto is missing: apt-get install mosquitto");
  return "mosquitto is not installed";
})();

export interface Mosquitto {
  readonly port: number;
  readonly tlsPort: number;
  readonly websocketsPort: number;
  readonly websocketsTlsPort: number;
  readonly socketPath: string;
  /** File with the authority of its certificate. */
  readonly ca: string;
  readonly username: string;
  readonly password: string;
  /** With SIGKILL it has no time to tell last wills. */
  stop(signal?: "SIGTERM" | "SIGKILL"): Promise<void>;
  /** At the same ports, without anything that it had kept. */
  start(): Promise<void>;
}

/** Debian's broker behind every kind of listener, for one user; nobody may listen to `secret/#`. */
export async function startMosquitto(t: Pick<TestContext, "after">): Promise<Mosquitto> {
  const directory = scratch(t);
  const file = (name: string, text: string) => {
    writeFileSync(join(directory, name), text);
    return join(directory, name);
  };
  const authority = await createAuthority(directory);
  const server = await authority.serverCertificate();
  const ca = file("authority.pem", authority.certificate);
  const tls = [`certfile ${file("server.crt", server.certificate)}`, `keyfile ${file("server.key", server.key)}`];
  const [username, password] = ["lab", "sec+ret word"];
  const passwords = file("passwords", "");
  const made = spawnSync("mosquitto_passwd", ["-b", passwords, username, password]);
  if (made.status !== 0) throw new Error(`mosquitto_passwd: ${made.stderr.toString()}`);
  const [port, tlsPort, websocketsPort, websocketsTlsPort] = [
    await freePort(),
    await freePort(),
    await freePort(),
    await freePort(),
  ];
  const socketPath = join(directory, "mqtt.sock");
  const config = file(
    "mosquitto.conf",
    [
      ...[
        "user root",
        "persistence false",
        "set_tcp_nodelay true",
        "allow_anonymous false",
        `password_file ${passwords}`,
      ],
      `acl_file ${file("acl", `user ${username}\ntopic readwrite #\ntopic deny secret/#\n`)}`,
      `listener ${port} 127.0.0.1`,
      ...[`listener ${tlsPort} 127.0.0.1`, ...tls],
      ...[`listener ${websocketsPort} 127.0.0.1`, "protocol websockets"],
      ...[`listener ${websocketsTlsPort} 127.0.0.1`, "protocol websockets", ...tls],
      `listener 0 ${socketPath}`,
      "",
    ].join("\n"),
  );
  let stop = async (_signal?: NodeJS.Signals) => {};
  const start = async () => {
    const child = spawn("mosquitto", ["-c", config], { stdio: ["ignore", "pipe", "pipe"] });
    let printed = "";
    for (const pipe of [child.stdout, child.stderr]) pipe.on("data", (chunk: Buffer) => (printed += chunk.toString()));
    const ended = once(child, "close");
    stop = async (signal = "SIGTERM") => {
      child.kill(signal);
      await ended;
    };
    for (let waited = 0; !/mosquitto version \S+ running/.test(printed); waited += 10) {
      if (child.exitCode !== null || waited > 10_000) throw new Error(`mosquitto does not start:\n${printed}`);
      await sleep(10);
    }
  };
  t.after(() => stop());
  await start();
  const ports = { port, tlsPort, websocketsPort, websocketsTlsPort };
  return { ...ports, socketPath, ca, username, password, stop: (signal) => stop(signal), start };
}
