import assert from "node:assert/strict";
import {
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { describe, test, type TestContext } from "node:test";
import { parse } from "yaml";
import { applyHostConfig } from "../../../appliance/first-boot/apply.ts";
import { readHostConfig } from "../../../appliance/first-boot/choose.ts";
import { scratch } from "../../sim/agent.ts";

/** A host with a boot partition, a state partition and the files of a system that are read. */
function host(t: TestContext) {
  const folder = scratch(t);
  const places = { boot: join(folder, "boot"), lastGood: join(folder, "state/config"), root: join(folder, "root") };
  mkdirSync(places.boot);
  mkdirSync(join(places.root, "etc"), { recursive: true });
  mkdirSync(join(places.root, "usr/share/zoneinfo/Europe"), { recursive: true });
  for (const zone of ["UTC", "Europe/Berlin"]) writeFileSync(join(places.root, "usr/share/zoneinfo", zone), "");
  writeFileSync(join(places.root, "etc/machine-id"), "0123456789abcdef0123456789abcdef\n");
  writeFileSync(join(places.root, "etc/shadow"), "root:*:1:0:99999:7:::\nbin:*:1:0:99999:7:::\n");
  return {
    ...places,
    write: (text: string) => writeFileSync(join(places.boot, "jumpstarter.yaml"), text),
    beside: (name: string, text: string) => {
      mkdirSync(join(places.boot, "exporters"), { recursive: true });
      writeFileSync(join(places.boot, "exporters", name), text);
    },
    apply: () => applyHostConfig(places),
    etc: (path: string) => readFileSync(join(places.root, "etc", path), "utf8"),
    mode: (path: string) => statSync(join(places.root, "etc", path)).mode & 0o777,
  };
}

const whole = `
hostname: bench-7
timezone: Europe/Berlin
ntp: [ntp.lab, 192.0.2.1]
hosts: { controller.lab: 192.0.2.10 }
network:
  ethernet: { interface: eth0, address: 192.0.2.7/24, gateway: 192.0.2.1, dns: [192.0.2.1] }
  wifi: { ssid: "Lab 1", password: 'it is "secret"', country: DE }
ssh:
  authorized_keys: [ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMq me@desk]
console: { password_hash: $y$j9T$abc$def }
exporters:
  bench-7:
    endpoint: controller.lab:443
    export: {}
tokens: { bench-7: eyJ.token }
update_keys:
  lab: |
    -----BEGIN PUBLIC KEY-----
    MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE
    -----END PUBLIC KEY-----
`;

describe("jumpstarter.yaml", () => {
  test("makes the files of the system", async (t) => {
    const { write, beside, apply, etc, mode, root } = host(t);
    write(whole);
    beside("bench-8.yaml", "metadata: { name: bench-8 }\n");
    beside("._bench-8.yaml", "what a desktop leaves");
    const applied = await apply();
    assert.deepEqual(applied, { hostname: "bench-7", source: "boot", problems: [], wireless: ["wlan0"] });
    assert.equal(etc("hostname"), "bench-7\n");
    assert.match(etc("hosts"), /^127\.0\.1\.1 bench-7$[^]*^192\.0\.2\.10 controller\.lab$/m);
    assert.equal(readlinkSync(join(root, "etc/localtime")), "../usr/share/zoneinfo/Europe/Berlin");
    assert.match(etc("systemd/timesyncd.conf.d/jumpstarter.conf"), /^NTP=ntp\.lab 192\.0\.2\.1$/m);
    const wired = etc("systemd/network/20-wired.network");
    assert.match(
      wired,
      /^Name=eth0$[^]*^Address=192\.0\.2\.7\/24$\n^Gateway=192\.0\.2\.1$\n^DNS=192\.0\.2\.1$\n^MulticastDNS=yes$/m,
    );
    assert.doesNotMatch(wired, /DHCP=/);
    assert.match(etc("wpa_supplicant/wpa_supplicant-wlan0.conf"), /^ {2}ssid=4c61622031$\n^ {2}psk="it is "secret""$/m);
    assert.match(etc("ssh/authorized_keys"), /^ssh-ed25519 \S+ me@desk\n$/);
    assert.match(etc("shadow"), /^root:\$y\$j9T\$abc\$def:1:0:99999:7:::\nbin:\*:/);
    assert.deepEqual(parse(etc("jumpstarter/exporters/bench-7.yaml")), {
      ...{ endpoint: "controller.lab:443", export: {}, metadata: { name: "bench-7" } },
    });
    assert.deepEqual(readdirSync(join(root, "etc/jumpstarter/exporters")), ["bench-7.yaml", "bench-8.yaml"]);
    assert.equal(etc("jumpstarter/tokens/bench-7"), "eyJ.token");
    assert.match(etc("jumpstarter/update-keys/lab.pem"), /^-----BEGIN PUBLIC KEY-----\n/);
    const secret = ["ssh/authorized_keys", "jumpstarter/tokens/bench-7", "wpa_supplicant/wpa_supplicant-wlan0.conf"];
    assert.deepEqual(secret.map(mode), [0o600, 0o600, 0o600]);
    assert.equal(mode("jumpstarter/exporters/bench-7.yaml"), 0o640);
  });

  test("of comments alone is a host that was told nothing: DHCP, and a name of its own", async (t) => {
    const { write, apply, etc } = host(t);
    write("# hostname: bench-7\r\n\r\n");
    assert.deepEqual(await apply(), { hostname: "jumpstarter-012345", source: "boot", problems: [], wireless: [] });
    assert.match(etc("systemd/network/20-wired.network"), /^Name=en\* eth\*$\n^Type=ether$[^]*^DHCP=yes$/m);
  });

  test("that Windows has written is read", async (t) => {
    const { write, apply } = host(t);
    write("\uFEFFhostname: bench-7\r\n");
    assert.equal((await apply()).hostname, "bench-7");
  });

  test("that is wrong changes nothing: the last good one is used, with what lay beside it, and this is said", async (t) => {
    const { write, beside, apply, etc, boot, lastGood } = host(t);
    write("hostname: bench-7\ntokens: { one: secret }\n");
    beside("one.yaml", "metadata: { name: one }\n");
    await apply();
    assert.equal(statSync(lastGood).isDirectory(), true);
    write("hostname: bench-8\nnetwork:\n  ethernet:\n    adress: 192.0.2.8/24\n");
    rmSync(join(boot, "exporters"), { recursive: true });
    for (let start = 0; start < 2; start += 1) {
      const { hostname, source, problems } = await apply();
      assert.deepEqual([hostname, source], ["bench-7", "last-good"]);
      assert.deepEqual(problems, [`${boot}/jumpstarter.yaml:4:5: network.ethernet.adress: unknown key`]);
      assert.equal(etc("jumpstarter/exporters/one.yaml"), "metadata: { name: one }\n");
      assert.equal(etc("jumpstarter/tokens/one"), "secret");
    }
    write("hostname: bench-8\n");
    assert.deepEqual((await apply()).hostname, "bench-8");
    assert.equal(existsSync(join(lastGood, "exporters/one.yaml")), false);
    assert.throws(() => etc("jumpstarter/exporters/one.yaml"), /ENOENT/);
    assert.throws(() => etc("jumpstarter/tokens/one"), /ENOENT/);
  });

  test("that never was good leaves a host with DHCP; one without the file, too", async (t) => {
    const { write, apply } = host(t);
    const first = await apply();
    assert.equal(first.source, "defaults");
    assert.match(first.problems.join(), /ENOENT|no such file/i);
    write("hostname: [\n");
    assert.equal((await apply()).source, "defaults");
  });

  test("without a state that can be written is used all the same", async (t) => {
    const { write, apply, lastGood } = host(t);
    mkdirSync(join(lastGood, ".."));
    writeFileSync(lastGood, "in the way");
    write("hostname: bench-7\n");
    const { hostname, source, problems } = await apply();
    assert.deepEqual([hostname, source, problems.length], ["bench-7", "boot", 1]);
    assert.match(problems.join(), /cannot be kept/);
  });

  test("is kept once, not at every start", async (t) => {
    const { write, apply, lastGood } = host(t);
    write("hostname: bench-7\n");
    await apply();
    const { ino } = statSync(join(lastGood, "jumpstarter.yaml"));
    await apply();
    assert.equal(statSync(join(lastGood, "jumpstarter.yaml")).ino, ino);
  });

  test("with a time zone that there is not works otherwise", async (t) => {
    const { write, apply, root } = host(t);
    write("timezone: Europe/Atlantis\nhostname: bench-7\n");
    const { hostname, problems } = await apply();
    assert.deepEqual([hostname, problems], ["bench-7", ["there is no time zone Europe/Atlantis: it stays as it was"]]);
    assert.equal(existsSync(join(root, "etc/localtime")), false);
  });

  const wrong: Record<string, [text: string, problem: string]> = {
    "a name with a domain": ["hostname: a.b\n", "1:11: hostname: must be letters, digits and -"],
    "a line in an NTP server": ['ntp: ["a\\nFallbackNTP=b"]\n', "1:7: ntp[0]: must be a host name"],
    "a path as a time zone": ["timezone: ../../shadow\n", "1:11: timezone: must be a time zone"],
    "a path as an exporter": ["exporters:\n  ../x: {}\n", "2:3: exporters.../x: "],
    "an address without its network": [
      "network: { ethernet: { address: 192.0.2.7 } }\n",
      "network.ethernet.address: must be an address with",
    ],
    "a gateway without an address": [
      "network: { ethernet: { gateway: 192.0.2.1 } }\n",
      "network.ethernet.gateway: stands with an address only",
    ],
    "a private key": [
      "ssh: { authorized_keys: ['-----BEGIN OPENSSH PRIVATE KEY-----'] }\n",
      "ssh.authorized_keys[0]: must be a public key",
    ],
    "a password in the open": [
      "console: { password_hash: hunter2 }\n",
      "console.password_hash: must be a password as crypt(5)",
    ],
    "an exporter without its shape": [
      "exporters:\n  one:\n    tls: { insecure: maybe }\n",
      "3:22: exporters.one.tls.insecure: must be true or false",
    ],
    "two documents": ["hostname: a\n---\nhostname: b\n", "only one document"],
  };
  for (const [what, [text, problem]] of Object.entries(wrong)) {
    test(`with ${what} is refused, and the place is told`, async (t) => {
      const { write, boot } = host(t);
      write(text);
      const read = await readHostConfig(boot);
      assert.ok("problems" in read);
      assert.ok(
        read.problems.some((line) => line.includes(problem)),
        read.problems.join("\n"),
      );
    });
  }

  test("and a file beside it cannot be the same exporter", async (t) => {
    const { write, beside, boot } = host(t);
    write("exporters: { one: {} }\n");
    beside("one.yaml", "metadata: { name: one }\n");
    const read = await readHostConfig(boot);
    assert.ok("problems" in read);
    assert.match(read.problems.join(), /one\.yaml: one stands in jumpstarter\.yaml, too/);
  });
});
