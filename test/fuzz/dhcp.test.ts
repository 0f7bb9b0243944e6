import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import fc from "fast-check";
import { LogBus } from "../../agent/driver/log.ts";
import { dhcpConfig, isInSubnet, type DhcpConfigInput } from "../../net/dhcp/config.ts";
import { LeaseTable } from "../../net/dhcp/leases.ts";
import { buildMessage, noAddress, parseMessage, type DhcpMessage, type DhcpOptions } from "../../net/dhcp/protocol.ts";
import { Responder } from "../../net/dhcp/responder.ts";
import { clients, discoverOf } from "../sim/dhcp-vectors.ts";
import { request, startWire } from "../sim/dhcp-wire.ts";
import { startDhcp, startLan } from "../sim/lan.ts";

const subnet = { address: "10.77.0.1", netmask: "255.255.255.0" };
const packets = 10_000;

const address = fc.oneof(
  fc.constantFrom("10.77.0.1", "10.77.0.5", "10.77.0.255", "192.168.1.1"),
  fc.ipV4().filter((one) => one !== noAddress),
);
const word = fc
  .string({ unit: "grapheme", minLength: 1, maxLength: 300 })
  .filter((text) => !/[\0\p{Surrogate}]/u.test(text));
const bytes = (maxLength: number) => fc.uint8Array({ minLength: 1, maxLength });
const options: fc.Arbitrary<DhcpOptions> = fc.record(
  {
    messageType: fc.integer({ min: 0, max: 10 }),
    serverIdentifier: fc.constantFrom("10.77.0.1", "10.77.0.9"),
    requestedAddress: address,
    leaseSeconds: fc.nat(0xffff_ffff),
    hostName: word,
    vendorClass: fc.oneof(fc.constantFrom("PXEClient:Arch:00007:UNDI:003000", "HTTPClient", "U-Boot.armv8"), word),
    bootFile: word,
    dnsServers: fc.array(address, { minLength: 1, maxLength: 4 }),
    parameterRequestList: fc.array(fc.nat(255), { minLength: 1, maxLength: 300 }),
    maxSizeBytes: fc.nat(65_535),
    userClass: fc.oneof(fc.constant(new TextEncoder().encode("iPXE")), bytes(20)),
    architectures: fc.array(fc.nat(50), { minLength: 1, maxLength: 3 }),
    clientMachineIdentifier: bytes(20),
    relayAgentInformation: bytes(300),
    others: fc.dictionary(fc.integer({ min: 200, max: 254 }).map(String), bytes(600), { minKeys: 1, maxKeys: 4 })
      .map((entries) => new Map(Object.entries(entries).map(([code, value]) => [Number(code), value]))),
  },
  { requiredKeys: [] },
); // prettier-ignore
const field = (most: number) =>
  fc.oneof(fc.constant(""), word).map((text) => (Buffer.byteLength(text) < most ? text : ""));
const mac = fc.constantFrom("02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03");
const message: fc.Arbitrary<DhcpMessage> = fc
  .tuple(mac, options, fc.record({ clientAddress: address, relayAddress: address, file: field(128), serverName: field(64), broadcast: fc.boolean() }, { requiredKeys: [] }))
  .map(([one, some, more]) => request(undefined, one, some, more)); // prettier-ignore

/** Packets of clients, real and made up, with bytes changed, cut off and added. */
const mutated = fc
  .tuple(
    fc.oneof(
      fc.constantFrom(...clients).map(discoverOf),
      message.map((one) => buildMessage(one, 4000)),
    ),
    fc.array(fc.tuple(fc.nat(700), fc.nat(255)), { maxLength: 6 }),
    fc.option(fc.nat(700)),
    fc.uint8Array({ maxLength: 40 }),
  )
  .map(([packet, changes, cut, more]) => {
    const changed = Uint8Array.from([...packet.subarray(0, cut ?? undefined), ...more]);
    for (const [offset, value] of changes) if (offset < changed.length) changed[offset] = value;
    return changed;
  });

test("any bytes are a message or malformed, and what was built is parsed as it was", () => {
  fc.assert(fc.property(fc.uint8Array({ maxLength: 700 }), (any) => void parseMessage(any)));
  fc.assert(
    fc.property(message, (one) => {
      assert.deepEqual(parseMessage(buildMessage(one, 65_535)), one);
    }),
    { numRuns: 1000 },
  );
});

test(`whatever is asked (${packets} packets), an answer is well-formed, as long as the client takes, and gives nobody another's address`, async () => {
  const log = new LogBus().logger({ source: "driver", logger: "dhcp" });
  const base: DhcpConfigInput = {
    interface: "none",
    dns: ["10.77.0.1"],
    domain: "lab.test",
    boot: {
      file: "f".repeat(200),
      http: "http://10.77.0.1/x",
      ipxe: "i",
      boards: { "02:00:00:00:00:01": { file: "b" } },
    },
  };
  for (const mode of ["server", "proxy"] as const) {
    const config = dhcpConfig.parse({ ...base, mode });
    const pool = { first: "10.77.0.4", last: "10.77.0.6" };
    const leases = await LeaseTable.open({ pool, excluded: [subnet.address], reservations: {}, file: undefined, log });
    const responder = new Responder({ config, subnet, leases, log });
    await fc.assert(
      fc.asyncProperty(mutated, fc.constantFrom(67, 4011), async (packet, localPort) => {
        const asked = parseMessage(packet);
        if ("malformed" in asked) return;
        const answer = await responder.answer(asked, { localPort, address: "10.77.0.5", port: 68 });
        if (answer === undefined) return;
        assert.ok(answer.packet.length <= Math.max(asked.options.maxSizeBytes ?? 0, 576) - 28);
        const said = parseMessage(answer.packet);
        assert.ok(!("malformed" in said));
        assert.equal(said.transactionId, asked.transactionId);
        assert.equal(said.options.serverIdentifier, subnet.address);
        if (mode === "proxy") assert.equal(said.yourAddress, noAddress);
        if (said.yourAddress === noAddress) return;
        assert.ok(isInSubnet(subnet, said.yourAddress));
        assert.deepEqual(leases.at(said.yourAddress)?.mac, Buffer.from(asked.hardwareAddress).toString("hex").replace(/..(?=.)/g, "$&:")); // prettier-ignore
      }),
      { numRuns: packets / 2 },
    );
    assert.ok(leases.list().length <= 3);
  }
});

test(
  `a live server survives ${packets} packets with flat memory, and serves a healthy client then`,
  { skip: process.getuid?.() !== 0 },
  async (t) => {
    const lan = await startLan(t);
    const wire = await startWire(t, await lan.plugIn("02:00:00:00:00:aa"));
    const server = await startDhcp(t, lan.host, { boot: { file: "x" } });
    const memory = async () => {
      const usage = JSON.parse(await server.ask("memory")) as { heapUsed: number; external: number };
      return usage.heapUsed + usage.external;
    };
    const samples = fc.sample(mutated, packets);
    const volley = async (from: number, to: number) => {
      for (let n = from; n < to; n++) {
        wire.send(samples[n] ?? new Uint8Array());
        // What overflows a socket's buffer would not be heard at all.
        if (n % 50 === 0) await sleep(2);
      }
      await sleep(200);
    };
    await volley(0, packets / 2);
    const half = await memory();
    await volley(packets / 2, packets);
    const whole = await memory();
    assert.ok(whole - half < 8 * 1024 ** 2, `${half} bytes after half of them, ${whole} after all`);
    await sleep(500);
    const answer = await wire.ask(request("discover", "02:00:00:00:00:aa"), {}, 5_000);
    assert.equal(answer?.file, "x");
  },
);
