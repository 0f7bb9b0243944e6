import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { createExporter } from "../../../agent/session/exporter.ts";
import snmp from "../../../boards/snmp/driver.ts";
import { snmpServer } from "../../../boards/snmp/interface.ts";
import * as protocol from "../../../boards/snmp/protocol.ts";
import * as usm from "../../../boards/snmp/usm.ts";
import * as ber from "../../../boards/snmp/ber.ts";
import { communitySecurity, UserSecurity } from "../../../boards/snmp/security.ts";
import { apcControl, apcStatus, community, noSnmpd, passphrase, privatePassphrase } from "../../sim/snmpd.ts";
import { raritan, startSnmpd } from "../../sim/snmpd.ts";
import { meddle } from "../../sim/udp-meddler.ts";

type Given = Record<string, unknown>;

const entry = (config: Given) => ({ type: "jumpstarter_driver_snmp.driver.SNMPServer", config });
const keys = { auth_key: passphrase, priv_key: privatePassphrase };
const v2c = { version: "2c", community };
const encrypted = { user: "shaaes", auth_protocol: "SHA", priv_protocol: "AES", ...keys };

async function open(t: TestContext, port: number, configs: Record<string, Given>) {
  const common = { host: "127.0.0.1", port, plug: 1, timeout: 2 };
  const entries = Object.entries(configs).map(([name, config]) => [name, entry({ ...common, ...config })]);
  const exporter = await createExporter({ name: "test", export: Object.fromEntries(entries) as Record<string, never> });
  t.after(() => exporter.close());
  const log: string[] = [];
  exporter.logs.subscribe((record) => log.push(record.message));
  const outlet = (name = "outlet", signal?: AbortSignal) =>
    exporter.calls(name, snmpServer, signal === undefined ? {} : { signal });
  return { outlet, log };
}

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const item of items) found.push(item);
  return found;
}

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");

test("numbers and object identifiers have one shortest encoding, and come back", () => {
  for (const [value, bytes] of [
    [0, "020100"],
    [127, "02017f"],
    [128, "02020080"],
    [256, "02020100"],
    [-1, "0201ff"],
    [-128, "020180"],
    [-129, "0202ff7f"],
    [0x7fff_ffff, "02047fffffff"],
    [-0x8000_0000, "020480000000"],
  ] as const) {
    assert.equal(hex(ber.integer(value)), bytes);
    assert.equal(new ber.Reader(ber.integer(value)).integer(), value);
  }
  assert.equal(hex(ber.objectIdentifier("1.3.6.1.4.1.13742.6")), "06082b06010401eb2e06");
  for (const oid of ["1.3.6.1.4.1.4294967295.0", "2.999.3", "0.39"]) {
    assert.equal(ber.identifierFrom(new ber.Reader(ber.objectIdentifier(oid)).expect(6)), oid);
  }
  assert.equal(ber.element(4, new Uint8Array(300)).length, 304);
});

test("keys are those of RFC 3414 A.3", () => {
  const engine = Buffer.from("000000000000000000000002", "hex");
  assert.equal(hex(usm.localizedKey("MD5", "maplesyrup", engine)), "526f5eed9fcce26f8964c2930787d82b");
  assert.equal(hex(usm.localizedKey("SHA", "maplesyrup", engine)), "6695febc9288e36282235fc7151f128497b38f3f");
});

test("what is encrypted is decrypted again, and not by another clock or key", () => {
  const clock = { engineBoots: 7, engineTime: 1234 };
  const plain = Buffer.from("thirteen byte");
  for (const protocol of ["DES", "AES", "AES-256"] as const) {
    const key = usm.privacyKey("MD5", protocol, "maplesyrup", Buffer.from("engine"));
    const sealed = usm.encrypt(protocol, key, clock, plain);
    assert.deepEqual(usm.decrypt(protocol, key, clock, sealed).subarray(0, plain.length), plain);
    assert.throws(() => usm.decrypt(protocol, key, clock, { ...sealed, privacy: Buffer.alloc(3) }));
    const other = usm.privacyKey("MD5", protocol, "maplesyrop", Buffer.from("engine"));
    assert.notDeepEqual(usm.decrypt(protocol, other, clock, sealed).subarray(0, plain.length), plain);
  }
});

test("values of every kind", () => {
  const value = (encoded: string) => {
    const binding = ber.element(0x30, ber.objectIdentifier("1.3"), Buffer.from(encoded, "hex"));
    const pdu = ber.element(0xa2, ...[1, 0, 0].map((n) => ber.integer(n)), ber.element(0x30, binding));
    const message = ber.element(0x30, ber.integer(1), ber.element(4, Buffer.from("c")), pdu);
    return protocol.decodeCommunityMessage(message).pdu.bindings[0]?.value;
  };
  assert.equal(value("0201fe"), -2);
  assert.equal(value("4204ffffffff"), 4294967295);
  assert.equal(value("46020100"), 256);
  assert.equal(value("0403322e35"), "2.5");
  assert.equal(value("06022b06"), "1.3.6");
  assert.equal(value("44079f780443660000"), 230);
  assert.equal(value("44079f78047fc00000"), null);
  for (const nothing of ["0500", "8000", "8100", "8200", "40047f000001"]) assert.equal(value(nothing), null, nothing);
});

test("answers with another version, community, number or kind are not ours", () => {
  const security = communitySecurity("2c", "c");
  const asked = protocol.request("get", 5, []);
  const read = (version: 0 | 1, name: string, pdu: protocol.Pdu) =>
    security.read(protocol.encodeCommunityMessage(version, name, pdu), asked, new Set()).is;
  const answer = { ...asked, type: protocol.pduTypes.response };
  assert.equal(read(1, "c", answer), "response");
  assert.equal(read(0, "c", answer), "noise");
  assert.equal(read(1, "d", answer), "noise");
  assert.equal(read(1, "c", { ...answer, requestId: 6 }), "noise");
  assert.equal(read(1, "c", asked), "noise");
});

test("version 3 believes what is fresh, for us, from that engine, and as secure as was asked", () => {
  const [auth, priv] = [
    { protocol: "SHA" as const, passphrase },
    { protocol: "AES" as const, passphrase: privatePassphrase },
  ];
  const engineId = Buffer.from("8000000001020304", "hex");
  const [authKey, privKey] = [
    usm.localizedKey("SHA", passphrase, engineId),
    usm.privacyKey("SHA", "AES", privatePassphrase, engineId),
  ];
  const asked = protocol.request("get", 77, [{ oid: "1.3", value: null }]);
  const answer = { ...asked, type: protocol.pduTypes.response };
  const report = (counter: number) => ({
    ...{ ...asked, type: protocol.pduTypes.report },
    bindings: [{ oid: `1.3.6.1.6.3.15.1.1.${counter}.0`, value: 1 }],
  });
  const nothing = Buffer.alloc(0);
  /** What the engine says; 0: in clear, 1: with a code, 3: encrypted as well. */
  const says = (
    level: 0 | 1 | 3,
    pdu: protocol.Pdu,
    given: { messageId?: number; user?: string; engineId?: Buffer; engineTime?: number } = {},
  ) => {
    const common = { messageId: 5, flags: level, engineId, engineBoots: 3, engineTime: 1000, user: "u", ...given };
    const plain = protocol.encodeScopedPdu(common.engineId, pdu);
    const { data, privacy } =
      level === 3 ? usm.encrypt("AES", privKey, common, plain) : { data: plain, privacy: nothing };
    const authentication = level === 0 ? nothing : Buffer.alloc(12);
    const { bytes, authenticationAt } = protocol.encodeSecuredMessage({ ...common, data, privacy, authentication });
    if (level !== 0) bytes.set(usm.authenticationCode("SHA", authKey, bytes), authenticationAt);
    return bytes;
  };
  const security = new UserSecurity({ name: "u", auth, priv });
  const read = (bytes: Uint8Array) => security.read(bytes, asked, new Set([4, 5])).is;
  assert.equal(protocol.decodeSecuredMessage(security.wrap(asked, 5)).engineId.length, 0);
  assert.equal(read(says(3, answer)), "noise", "from an engine that we have not met");
  assert.equal(read(says(0, report(4), { messageId: 6 })), "noise", "to a question that we have not asked");
  assert.equal(read(says(0, report(4), { engineId: Buffer.from("1234") })), "noise", "no engine has such an id");
  assert.equal(read(says(0, report(4))), "news");
  const { engineBoots, engineTime, flags } = protocol.decodeSecuredMessage(security.wrap(asked, 5));
  assert.deepEqual([engineBoots, engineTime, flags], [3, 1000, 7]);

  assert.equal(read(says(3, answer)), "response");
  assert.equal(read(says(3, answer, { messageId: 4 })), "response");
  assert.equal(read(says(3, answer, { messageId: 6 })), "noise");
  assert.equal(read(says(3, { ...answer, requestId: 78 })), "noise");
  assert.equal(read(says(3, answer, { user: "v" })), "noise");
  assert.equal(read(says(3, answer, { engineId: Buffer.from("8000000001020305", "hex") })), "noise");
  assert.equal(read(says(1, answer)), "noise");
  assert.equal(read(says(0, answer)), "noise");
  // Only the engine itself moves its clock, and only one that we have lost is met anew.
  assert.equal(read(says(0, report(2), { engineTime: 9000 })), "noise");
  assert.equal(read(says(0, report(4))), "noise");
  assert.equal(protocol.decodeSecuredMessage(security.wrap(asked, 5)).engineTime, 1000);
  assert.equal(read(says(1, report(2), { engineTime: 9000 })), "news");
  assert.equal(protocol.decodeSecuredMessage(security.wrap(asked, 5)).engineTime, 9000);
  assert.deepEqual(security.read(says(0, report(3)), asked, new Set([5])), {
    ...{ is: "refusal", indication: "unknown user name" },
  });
  assert.equal(read(says(0, report(4), { engineId: Buffer.from("8000000009", "hex") })), "news");
});

test("configurations that cannot work are refused in the words of the Python driver", async () => {
  const refused = async (config: Given, message: RegExp) =>
    assert.rejects(createExporter({ name: "test", export: { outlet: entry(config) } }), message);
  const common = { host: "pdu", plug: 1, user: "u" };
  await refused({ host: "pdu", plug: 1 }, /user: must be given for version 3/);
  await refused({ ...common, auth_protocol: "MD5" }, /Authentication key required when auth_protocol is specified/);
  await refused(
    { ...common, auth_protocol: "SHA", auth_key: "x", priv_protocol: "AES" },
    /Both auth_key and priv_key required for authenticated privacy/,
  );
  await refused({ ...common, auth_protocol: "md5" }, /auth_protocol/);
  await refused({ ...common, version: "2c" }, /community: must be given for version 2c/);
  await refused({ ...common, oid: "iso.org" }, /must be an OID of numbers/);
  await refused({ ...common, plug: 1.5 }, /whole number/);
  await refused({ ...common, timeout: 0 }, /more than 0/);
});

test("with snmpd", { skip: noSnmpd }, async (t) => {
  const agent = await startSnmpd(t);
  const outlet1 = `${raritan}.1`;

  await t.test("every version and security level switches, and is read back", async (t) => {
    const auth = (protocol: string) => ({ user: protocol.toLowerCase().replace("-", ""), auth_protocol: protocol });
    const priv = (user: string, auth_protocol: string, priv_protocol: string) => ({
      user,
      auth_protocol,
      priv_protocol,
    });
    const configs = {
      ...{ plain: { user: "plain" }, ignored: { user: "plain", priv_protocol: "AES" } },
      ...{ md5: auth("MD5"), sha: auth("SHA"), sha256: auth("SHA-256"), sha512: auth("SHA-512") },
      ...{ md5des: priv("md5des", "MD5", "DES"), shaaes: priv("shaaes", "SHA", "AES") },
      ...{ md5aes256: priv("md5aes256", "MD5", "AES-256"), sha512aes256: priv("sha512aes256", "SHA-512", "AES-256") },
      ...{ v1: { version: 1, community }, v2: v2c },
    };
    const given = Object.entries(configs).map(([name, config]) => [name, { ...keys, ...config, confirm: true }]);
    const { outlet, log } = await open(t, agent.port, Object.fromEntries(given) as Record<string, Given>);
    for (const name of Object.keys(configs)) {
      const before = agent.sets().length;
      assert.equal(await outlet(name).on(), "Power ON command sent successfully");
      assert.equal(agent.value(outlet1), "integer 1", name);
      assert.equal(await outlet(name).off(), "Power OFF command sent successfully");
      assert.deepEqual(agent.sets().slice(before), [`${outlet1} 1`, `${outlet1} 0`], name);
    }
    assert.ok(log.every((line) => !line.includes("horse") && !line.includes("staple")));
  });

  await t.test("refusals are told at once, in words", async (t) => {
    const { outlet } = await open(t, agent.port, {
      stranger: { user: "nobody", auth_protocol: "MD5", ...keys },
      forger: { user: "md5", auth_protocol: "MD5", auth_key: "battery horse" },
      bare: { user: "md5" },
      reader: { user: "reader" },
      absent: { ...v2c, plug: 9 },
      old: { version: "1", community, plug: 9 },
    });
    const refused = (name: string, message: string | RegExp) =>
      assert.rejects(outlet(name).on(), { code: "E_FAILED", message });
    await refused("stranger", "SNMP set failed: SNMP error: unknown user name");
    await refused("forger", "SNMP set failed: SNMP error: wrong authentication key or protocol");
    await refused("bare", /SNMP error: (authorizationError|noAccess) at /);
    await refused("reader", `SNMP set failed: SNMP error: noAccess at ${outlet1}`);
    await refused("absent", /^SNMP set failed: SNMP error: \w+ at 1\.3\.6\.1\.4\.1\.13742\.6\.4\.1\.2\.1\.2\.1\.9$/);
    await refused("old", /^SNMP set failed: SNMP error: \w+ at .*\.9$/);
  });

  await t.test("an APC has other values, and its state elsewhere", async (t) => {
    const apc = { ...v2c, oid: apcControl, on_value: 1, off_value: 2 };
    const status = { status_oid: `${apcStatus}.{plug}`, status_on: 2, status_off: 1 };
    const { outlet } = await open(t, agent.port, { outlet: { ...apc, ...status, confirm: true } });
    await outlet().on();
    assert.equal(agent.value(`${apcStatus}.1`), "integer 2");
    await outlet().off();
    assert.equal(agent.value(`${apcStatus}.1`), "integer 1");
  });

  await t.test("an outlet that acknowledges and stays is an error; unless nobody asks it", async (t) => {
    agent.stick(`${raritan}.2`);
    agent.put(`${raritan}.3`, "integer 7");
    agent.stick(`${raritan}.3`);
    const quick = { ...v2c, timeout: 0.5 };
    const { outlet, log } = await open(t, agent.port, {
      stuck: { ...quick, plug: 2 },
      trusted: { ...quick, plug: 2, confirm: false },
      odd: { ...quick, plug: 3 },
      strict: { ...quick, plug: 3, confirm: true },
    });
    await assert.rejects(outlet("stuck").on(), {
      code: "E_FAILED",
      message: "SNMP set failed: plug 2 is still off after 0.5 s",
    });
    await outlet("stuck").off();
    await outlet("trusted").on();
    await outlet("odd").on();
    assert.match(log.join("\n"), /plug 3 of 127\.0\.0\.1 is not confirmed: .* shows 7/);
    await assert.rejects(outlet("strict").on(), { code: "E_FAILED", message: /shows 7$/ });
  });

  await t.test("a slow relay is waited for", async (t) => {
    const { outlet } = await open(t, agent.port, { outlet: { ...v2c, oid: apcControl, status_oid: `${apcStatus}.7` } });
    agent.put(`${apcStatus}.7`, "integer 0");
    const done = outlet().on();
    await sleep(150);
    agent.put(`${apcStatus}.7`, "integer 1");
    await done;
  });

  await t.test("voltage and current are numbers of any kind, scaled", async (t) => {
    agent.put(`${apcStatus}.21`, "gauge 2305");
    agent.put(`${apcStatus}.22`, "string 0.25");
    agent.put(`${apcStatus}.23`, "string n/a");
    const at = (last: number) => `.${apcStatus}.${last}`;
    const { outlet } = await open(t, agent.port, {
      both: { ...v2c, plug: 21, voltage_oid: `${apcStatus}.{plug}`, voltage_scale: 0.1, current_oid: at(22) },
      one: { ...v2c, current_oid: at(22), current_scale: "2" },
      none: v2c,
      text: { ...v2c, voltage_oid: at(23) },
      absent: { ...v2c, voltage_oid: at(24) },
    });
    const [reading] = await all(outlet("both").read());
    assert.ok(Math.abs((reading?.voltage ?? 0) - 230.5) < 1e-9);
    assert.equal(reading?.current, 0.25);
    assert.deepEqual(await all(outlet("one").read()), [{ voltage: 0, current: 0.5 }]);
    await assert.rejects(all(outlet("none").read()), { code: "E_UNSUPPORTED" });
    await assert.rejects(all(outlet("text").read()), {
      code: "E_FAILED",
      message: /^SNMP get failed: there is no number/,
    });
    await assert.rejects(all(outlet("absent").read()), { code: "E_FAILED", message: /there is no number/ });
  });

  await t.test("lost, late, doubled, damaged and forged datagrams", async (t) => {
    const line = await meddle(t, agent.port);
    const { outlet } = await open(t, line.port, {
      v2: { ...v2c, timeout: 1.5, confirm: true },
      v3: { ...encrypted, timeout: 1.5, confirm: true },
      forged: { ...encrypted, timeout: 0.3 },
    });
    for (const name of ["v2", "v3"]) {
      // Lost: the first of each kind of datagram.
      let [requests, answers] = [0, 0];
      line.onRequest = (bytes) => (requests++ === 0 ? [] : [bytes]);
      line.onAnswer = (bytes) => (answers++ === 0 ? [] : [bytes]);
      await outlet(name).on();
      assert.equal(agent.value(outlet1), "integer 1");
      // Later than the second try, which is lost: what answers the first is as good. Before it: garbage, and itself with a
      // bit turned.
      let isPending = false;
      line.onRequest = (bytes) => {
        if (isPending) return [];
        isPending = true;
        return [bytes];
      };
      line.onAnswer = (bytes) => {
        setTimeout(() => (isPending = false), 360).unref();
        const turned = Buffer.from(bytes);
        turned[turned.length - 1] = (turned.at(-1) ?? 0) ^ 1;
        const late = { bytes, afterMs: 350 };
        return [
          Buffer.from("garbage"),
          new Uint8Array(),
          bytes.subarray(0, 20),
          ...(name === "v3" ? [turned] : []),
          late,
          late,
        ];
      };
      await outlet(name).off();
      assert.equal(agent.value(outlet1), "integer 0");
    }
    line.onRequest = (bytes) => [bytes];
    // An agent that strips what proves it: in the message's flags, authenticated and encrypted are bits 1 and 2.
    line.onAnswer = (bytes) => {
      const message = protocol.decodeSecuredMessage(bytes);
      if (message.flags === 0) return [bytes];
      const pdu = { type: protocol.pduTypes.response, requestId: 1, errorStatus: 0, errorIndex: 0, bindings: [] };
      const data = protocol.encodeScopedPdu(message.engineId, pdu);
      const bare = { flags: 0, data, authentication: Buffer.alloc(0), privacy: Buffer.alloc(0) };
      return [protocol.encodeSecuredMessage({ ...message, ...bare }).bytes];
    };
    await assert.rejects(outlet("forged").on(), {
      code: "E_TIMEOUT",
      message: /timed out; \d+ datagrams came that were/,
    });
  });

  await t.test(
    "silence ends with the deadline, a closed port is told as such, and a cancelled call ends at once",
    async (t) => {
      const line = await meddle(t, agent.port);
      line.onRequest = () => [];
      const { outlet } = await open(t, line.port, {
        outlet: { ...encrypted, timeout: 0.3 },
        patient: { ...v2c, timeout: 60 },
        queued: { ...v2c, timeout: 60 },
        closed: { ...v2c, port: 9, timeout: 0.3 },
        nowhere: { ...v2c, host: "no-such-host.invalid" },
      });
      await assert.rejects(outlet().on(), { code: "E_TIMEOUT", message: "SNMP set failed: SNMP operation timed out" });
      assert.ok(line.requests >= 3, `${line.requests} tries`);
      await assert.rejects(outlet("closed").on(), { code: "E_CONNECTION", message: /Connection refused/ });
      await assert.rejects(outlet("nowhere").on(), {
        code: "E_CONNECTION",
        message: /^SNMP set failed: Failed to resolve hostname no-such-host\.invalid: /,
      });
      const given = new AbortController();
      const cancelled = outlet("patient", given.signal).on();
      const queued = outlet("queued", given.signal).on();
      setTimeout(() => given.abort(new Error("enough")), 50);
      await assert.rejects(cancelled, /enough/);
      await assert.rejects(queued, /enough/);
    },
  );

  await t.test("an agent that starts again, or is another one, is met anew", async (t) => {
    const { outlet } = await open(t, agent.port, { outlet: { ...encrypted, timeout: 5 } });
    await outlet().on();
    await agent.stop();
    await agent.start(); // has counted its boots: our clock is wrong
    await outlet().off();
    assert.equal(agent.value(outlet1), "integer 0");
    await agent.stop();
    await agent.start({ forgetful: true }); // has another engine id: all our keys are wrong
    await outlet().on();
    assert.equal(agent.value(outlet1), "integer 1");
    // An agent that is away for a moment costs a moment.
    await agent.stop();
    const done = outlet().off();
    await agent.start();
    await done;
    assert.equal(agent.value(outlet1), "integer 0");
  });

  await t.test("drivers of one agent take turns", async (t) => {
    const line = await meddle(t, agent.port);
    let [underWay, atOnce] = [0, 0];
    line.onRequest = (bytes) => {
      underWay += 1;
      atOnce = Math.max(atOnce, underWay);
      return [bytes];
    };
    line.onAnswer = (bytes) => {
      underWay -= 1;
      return [bytes];
    };
    const { outlet } = await open(t, line.port, { a: v2c, b: v2c, c: { version: 1, community } });
    await Promise.all(["a", "b", "c", "a"].map((name) => outlet(name).on()));
    assert.equal(atOnce, 1);
  });

  await t.test("the doctor reads the state and changes nothing", async () => {
    const look = (config: Given) =>
      snmp.inspect?.(snmp.config.parse({ host: "127.0.0.1", port: agent.port, plug: 1, ...config }));
    agent.put(outlet1, "integer 1");
    const before = agent.sets().length;
    const where = `SNMP agent at 127.0.0.1:${agent.port}`;
    assert.deepEqual(await look(v2c), [{ ok: true, text: `${where}: plug 1 is on` }]);
    assert.deepEqual(await look({ ...v2c, plug: 8 }), [{ ok: true, text: `${where}: plug 8 does not show its state` }]);
    const [finding] = (await look({ user: "nobody" })) ?? [];
    assert.equal(finding?.ok, false);
    assert.match(finding.text, /unknown user name/);
    assert.equal(agent.sets().length, before);
  });
});
