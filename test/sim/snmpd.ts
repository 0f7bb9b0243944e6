import { spawn, spawnSync } from "node:child_process";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { scratch } from "./agent.ts";

const program = "/usr/sbin/snmpd";

/** Why tests with snmpd cannot run here, or false. Never a reason in CI. */
export const noSnmpd = (() => {
  if (spawnSync(program, ["-v"]).status === 0) return false;
  if (process.env["CI"]) throw new Error("snmpd is missing: apt-get install snmpd");
  return "snmpd is not installed";
})();

/** Outlet switching of a Raritan PDU2, without the outlet. */
export const raritan = "1.3.6.1.4.1.13742.6.4.1.2.1.2.1";
/** rPDU2OutletSwitchedControlCommand and rPDU2OutletSwitchedStatusState of an APC. */
export const apcControl = "1.3.6.1.4.1.318.1.1.26.9.2.4.1.5";
export const apcStatus = "1.3.6.1.4.1.318.1.1.26.9.2.3.1.5";

/** Passphrase of every user. */
export const passphrase = "correct horse";
/** Passphrase for encryption of those who have one. */
export const privatePassphrase = "battery staple";
export const community = "lab-secret";

const users = {
  plain: "",
  md5: `MD5 "${passphrase}"`,
  sha: `SHA "${passphrase}"`,
  sha256: `SHA-256 "${passphrase}"`,
  sha512: `SHA-512 "${passphrase}"`,
  md5des: `MD5 "${passphrase}" DES "${privatePassphrase}"`,
  shaaes: `SHA "${passphrase}" AES "${privatePassphrase}"`,
  md5aes256: `MD5 "${passphrase}" AES-256 "${privatePassphrase}"`,
  sha512aes256: `SHA-512 "${passphrase}" AES-256 "${privatePassphrase}"`,
};

/**
 * Outlets for snmpd's pass_persist: a file per OID with type and value. `follow-OID` names the OID that takes over what
 * is set here; an OID whose `stuck-OID` exists acknowledges and stays as it is.
 */
const outlets = `cd "$1"
while read -r line; do
  case "$line" in
  PING) echo PONG ;;
  get)
    read -r oid; oid="\${oid#.}"
    if [ -f "$oid" ]; then read -r kind value < "$oid"; printf '.%s\\n%s\\n%s\\n' "$oid" "$kind" "$value"
    else echo NONE; fi ;;
  getnext) read -r oid; echo NONE ;;
  set)
    read -r oid; read -r kind value; oid="\${oid#.}"
    if [ ! -f "$oid" ]; then echo not-writable; continue; fi
    echo "$oid $value" >> sets
    if [ ! -f "stuck-$oid" ]; then
      echo "$kind $value" > "$oid"
      if [ -f "follow-$oid" ]; then
        read -r other on off < "follow-$oid"
        if [ "$value" = 1 ]; then echo "integer $on" > "$other"; else echo "integer $off" > "$other"; fi
      fi
    fi
    echo DONE ;;
  esac
done
`;

export interface Snmpd {
  readonly port: number;
  /** What was set so far: `OID VALUE`. */
  sets(): string[];
  value(oid: string): string;
  /** Makes an OID: `integer 0`, `string 230.5`, `gauge 2`. */
  put(oid: string, typeAndValue: string): void;
  /** Makes an OID acknowledge what it is told and stay as it is. */
  stick(oid: string): void;
  stop(): Promise<void>;
  /** At the same port again. A forgetful one has another engine id and counts its starts from the beginning. */
  start(options?: { forgetful?: boolean }): Promise<void>;
}

/** Debian's snmpd with outlets 1 to 3 (off), an APC's outlet 1, users of every kind and a community. */
export async function startSnmpd(t: TestContext): Promise<Snmpd> {
  const directory = scratch(t);
  const values = join(directory, "values");
  mkdirSync(values);
  const put = (oid: string, typeAndValue: string) => writeFileSync(join(values, oid), `${typeAndValue}\n`);
  for (const outlet of [1, 2, 3]) put(`${raritan}.${outlet}`, "integer 0");
  put(`${apcControl}.1`, "integer 4");
  put(`${apcStatus}.1`, "integer 1");
  writeFileSync(join(values, `follow-${apcControl}.1`), `${apcStatus}.1 2 1\n`);
  writeFileSync(join(directory, "outlets.sh"), outlets);
  writeFileSync(
    join(directory, "snmpd.conf"),
    [
      ...Object.entries(users).map(([name, words]) => `createUser ${name} ${words}`),
      ...Object.keys(users).map((name) => `rwuser ${name} ${name === "plain" ? "noauth" : ""}`),
      "createUser reader",
      "rouser reader noauth",
      `rwcommunity ${community} 127.0.0.1`,
      ...[raritan.split(".", 7).join("."), "1.3.6.1.4.1.318"].map(
        (oid) => `pass_persist .${oid} /bin/sh ${join(directory, "outlets.sh")} ${values}`,
      ),
      "",
    ].join("\n"),
  );
  const port = await freeUdpPort();
  let ended: Promise<unknown> = Promise.resolve();
  let stop = async () => {};
  let lives = 0;
  const start = async ({ forgetful = false } = {}) => {
    // It counts its starts in its own directory.
    if (lives === 0 || forgetful) lives += 1;
    const persistent = join(directory, `persistent-${lives}`);
    mkdirSync(persistent, { recursive: true });
    const words = ["-f", "-Lo", "-p", join(directory, "pid")];
    const child = spawn(program, [...words, `udp:127.0.0.1:${port}`], {
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, SNMPCONFPATH: directory, SNMP_PERSISTENT_DIR: persistent, MIBS: "" },
    });
    let printed = "";
    for (const pipe of [child.stdout, child.stderr]) pipe.on("data", (chunk: Buffer) => (printed += chunk.toString()));
    ended = once(child, "close");
    stop = async () => {
      child.kill("SIGTERM");
      await ended;
    };
    for (let waited = 0; !printed.includes("NET-SNMP version"); waited += 10) {
      if (child.exitCode !== null || waited > 10_000) throw new Error(`snmpd does not start:\n${printed}`);
      await sleep(10);
    }
  };
  t.after(() => stop());
  await start();
  return {
    port,
    sets: () => {
      try {
        return readFileSync(join(values, "sets"), "utf8").trim().split("\n");
      } catch {
        return [];
      }
    },
    value: (oid) => readFileSync(join(values, oid), "utf8").trim(),
    put,
    stick: (oid) => writeFileSync(join(values, `stuck-${oid}`), ""),
    stop: () => stop(),
    start,
  };
}

async function freeUdpPort(): Promise<number> {
  const socket = createSocket("udp4").bind(0, "127.0.0.1");
  await once(socket, "listening");
  const { port } = socket.address();
  socket.close();
  await once(socket, "close");
  return port;
}
