// What power strips and plugs send is decoded to something, or to nothing; never to an exception that nobody expects.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import * as ber from "../../boards/snmp/ber.ts";
import * as protocol from "../../boards/snmp/protocol.ts";
import * as mqtt from "../../boards/tasmota/protocol.ts";
import { readingOf, stateOf } from "../../boards/tasmota/topics.ts";
import { communitySecurity, UserSecurity } from "../../boards/snmp/security.ts";

/** Plain objects, to be compared with what decoders make. */
const record = <T extends object>(model: { [K in keyof T]: fc.Arbitrary<T[K]> }) =>
  fc.record<T>(model, { noNullPrototype: true });
const oid = fc
  .tuple(fc.integer({ min: 0, max: 2 }), fc.integer({ min: 0, max: 39 }), fc.array(fc.nat({ max: 0xffff_ffff })))
  .map(([first, second, rest]) => [first, second, ...rest].join("."));
const int32 = fc.integer({ min: -0x8000_0000, max: 0x7fff_ffff });
const pdu = record({
  type: fc.constantFrom(...Object.values(protocol.pduTypes)),
  requestId: int32,
  errorStatus: fc.nat(20),
  errorIndex: fc.nat(5),
  bindings: fc.array(record({ oid, value: fc.oneof(int32, fc.constant(null)) }), { maxLength: 4 }),
});

test("SNMP messages come back as they went", () => {
  fc.assert(
    fc.property(pdu, fc.string(), fc.constantFrom(0 as const, 1 as const), (given, community, version) => {
      const bytes = protocol.encodeCommunityMessage(version, community, given);
      assert.deepEqual(protocol.decodeCommunityMessage(bytes), { version, community, pdu: given });
    }),
  );
  const bytes = fc.uint8Array({ maxLength: 40 });
  const message = record({
    ...{ messageId: int32, flags: fc.constantFrom(0, 1, 4, 5), engineBoots: fc.nat(), engineTime: fc.nat() },
    ...{ engineId: bytes, user: fc.string(), authentication: bytes, privacy: bytes },
    data: pdu.map((given) => protocol.encodeScopedPdu(new Uint8Array(), given)),
  });
  fc.assert(
    fc.property(message, (given) => {
      const encoded = protocol.encodeSecuredMessage(given);
      assert.deepEqual(protocol.decodeSecuredMessage(encoded.bytes), {
        ...given,
        authenticationAt: encoded.authenticationAt,
      });
    }),
  );
});

test("damaged SNMP messages are noise or BerErrors", () => {
  const asked = protocol.request("get", 7, [{ oid: "1.3.6.1", value: null }]);
  const community = communitySecurity("2c", "c");
  const answer = { ...asked, type: protocol.pduTypes.response };
  const whole = [
    protocol.encodeCommunityMessage(1, "c", answer),
    protocol.encodeSecuredMessage({
      ...{ messageId: 1, flags: 0, engineId: new Uint8Array(8), engineBoots: 1, engineTime: 1, user: "" },
      ...{ authentication: new Uint8Array(12), privacy: new Uint8Array(8) },
      data: protocol.encodeScopedPdu(new Uint8Array(8), { ...answer, type: protocol.pduTypes.report }),
    }).bytes,
  ];
  const damaged = fc
    .tuple(fc.constantFrom(...whole), fc.array(fc.tuple(fc.nat(200), fc.nat(255)), { maxLength: 4 }), fc.nat(200))
    .map(([message, turns, length]) => {
      const bytes = Uint8Array.from(message.subarray(0, Math.max(length, message.length - 60)));
      for (const [at, value] of turns) if (at < bytes.length) bytes[at] = value;
      return bytes;
    });
  fc.assert(
    fc.property(fc.oneof(fc.uint8Array(), damaged), (bytes) => {
      const user = new UserSecurity({
        name: "u",
        auth: { protocol: "SHA", passphrase: "p" },
        priv: { protocol: "DES", passphrase: "q" },
      });
      const kinds = ["response", "news", "refusal", "noise"];
      assert.ok(kinds.includes(community.read(bytes, asked, new Set()).is));
      assert.notEqual(user.read(bytes, asked, new Set([1])).is, "response");
      try {
        protocol.decodeSecuredMessage(bytes);
      } catch (error) {
        assert.ok(error instanceof ber.BerError, String(error));
      }
    }),
    { numRuns: 500 },
  );
});

test("whatever a broker sends, and however it is cut, is packets or an MqttError", () => {
  const frame = fc
    .tuple(fc.constantFrom(0x20, 0x30, 0x31, 0x32, 0x40, 0x90, 0xd0, 0xe0), fc.uint8Array({ maxLength: 100 }))
    .map(([first, body]) => Uint8Array.of(first, body.length, ...body));
  const stream = fc.oneof(
    fc.uint8Array(),
    fc.array(frame, { maxLength: 5 }).map((frames) => Uint8Array.from(frames.flatMap((bytes) => [...bytes]))),
  );
  const read = (chunks: readonly Uint8Array[]) => {
    const packets = new mqtt.Packets();
    const found: mqtt.Packet[] = [];
    try {
      for (const chunk of chunks) found.push(...packets.push(chunk));
      return { found, failed: false };
    } catch (error) {
      assert.ok(error instanceof mqtt.MqttError, String(error));
      return { found, failed: true };
    }
  };
  fc.assert(
    fc.property(stream, fc.integer({ min: 1, max: 7 }), (bytes, size) => {
      const chunks = Array.from({ length: Math.ceil(bytes.length / size) }, (_, at) =>
        bytes.subarray(at * size, (at + 1) * size),
      );
      const [whole, cut] = [read([bytes]), read(chunks)];
      assert.equal(cut.failed, whole.failed);
      if (!whole.failed) assert.deepEqual(cut.found, whole.found);
    }),
    { numRuns: 1_000 },
  );
});

test("whatever a plug says is a state, a reading, or nothing", () => {
  const payload = fc.oneof(
    fc.string(),
    fc.json(),
    fc.json().map((inner) => `{"StatusSNS":{"ENERGY":${inner}},"POWER":${inner}}`),
    fc.tuple(fc.json(), fc.json()).map(([one, two]) => `{"ENERGY":{"Voltage":${one},"Current":${two}}}`),
  );
  fc.assert(
    fc.property(payload, (given) => {
      assert.ok([true, false, undefined].includes(stateOf(given, "POWER")));
      const reading = readingOf(given);
      if (reading !== undefined) assert.ok(Number.isFinite(reading.voltage + reading.current));
    }),
    { numRuns: 1_000 },
  );
});
