import assert from "node:assert/strict";
import { test } from "node:test";
import type { Lease } from "../../../../net/dhcp/leases.ts";
import { decapsulate, macText, messageType, serverPort } from "../../../../net/dhcp/protocol.ts";
import { discoverOf } from "../../../sim/dhcp-vectors.ts";
import { request, startWire, type Heard } from "../../../sim/dhcp-wire.ts";
import { startDhcp, startLan, withLan } from "../../../sim/lan.ts";

const own = "10.77.0.1";
const a = "02:00:00:00:00:0a";
const b = "02:00:00:00:00:0b";
const pool = { first: "10.77.0.10", last: "10.77.0.12" };
/** For what must not come. */
const silenceMs = 400;

const kind = (answer: Heard | undefined) =>
  Object.entries(messageType).find(([, type]) => type === answer?.options.messageType)?.[0];

test("a client selects, renews, rebinds, reboots and releases as RFC 2131 has it", withLan, async (t) => {
  const lan = await startLan(t);
  const machine = await lan.plugIn(a);
  const wire = await startWire(t, machine);
  const server = await startDhcp(t, lan.host, { pool, leaseSeconds: 600 });

  const offer = await wire.ask(request("discover", a, { clientIdentifier: Uint8Array.of(1, 2, 3) }));
  assert.deepEqual(
    {
      kind: kind(offer),
      address: offer?.yourAddress,
      server: offer?.options.serverIdentifier,
      next: offer?.nextServerAddress,
      lease: [offer?.options.leaseSeconds, offer?.options.renewalSeconds, offer?.options.rebindingSeconds],
      mask: offer?.options.subnetMask,
      echoed: offer?.options.clientIdentifier,
    },
    {
      kind: "offer",
      address: "10.77.0.10",
      server: own,
      next: own,
      lease: [600, 300, 525],
      mask: "255.255.255.0",
      echoed: Uint8Array.of(1, 2, 3),
    },
  );
  const selecting = { requestedAddress: "10.77.0.10", serverIdentifier: own };
  assert.equal(kind(await wire.ask(request("request", a, { ...selecting, leaseSeconds: 120 }))), "ack");

  await machine.run("ip", ["address", "add", "10.77.0.10/24", "dev", "eth0"]);
  const renewing = () => request("request", a, {}, { clientAddress: "10.77.0.10" });
  assert.equal(kind(await wire.ask(renewing(), { address: own })), "ack");
  assert.equal(kind(await wire.ask(renewing())), "ack", "rebinding");
  await machine.run("ip", ["address", "flush", "dev", "eth0"]);

  const rebooting = await wire.ask(request("request", a, { requestedAddress: "10.77.0.10" }));
  assert.deepEqual([kind(rebooting), rebooting?.yourAddress], ["ack", "10.77.0.10"]);

  const again = await wire.ask(request("discover", a));
  assert.equal(again?.yourAddress, "10.77.0.10", "the same client gets the same address");
  assert.equal((await wire.ask(request("discover", b, { requestedAddress: "10.77.0.12" })))?.yourAddress, "10.77.0.12");

  await wire.ask(request("release", a, { serverIdentifier: own }, { clientAddress: "10.77.0.10" }), {}, silenceMs);
  const leases = JSON.parse(await server.ask("leases")) as Lease[];
  assert.deepEqual(
    leases.map(({ mac, address, state }) => ({ mac, address, state })),
    [
      { mac: a, address: "10.77.0.10", state: "released" },
      { mac: b, address: "10.77.0.12", state: "offered" },
    ],
  );
});

test(
  "what a client may not have is refused aloud, and what was meant for another server is not answered",
  withLan,
  async (t) => {
    const lan = await startLan(t);
    const wire = await startWire(t, await lan.plugIn(a));
    await startDhcp(t, lan.host, { pool });
    const first = await wire.ask(request("discover", a));
    const taken = { requestedAddress: first?.yourAddress ?? "", serverIdentifier: own };
    assert.equal(kind(await wire.ask(request("request", a, taken))), "ack");

    const answers: Record<string, string | undefined> = {};
    const say = async (what: string, ...message: Parameters<typeof request>) => {
      const answer = await wire.ask(request(...message), {}, silenceMs);
      answers[what] = kind(answer);
      if (kind(answer) !== "nak") return;
      assert.equal(answer?.options.serverIdentifier, own);
      assert.equal(answer?.yourAddress, "0.0.0.0");
      assert.equal(answer?.options.leaseSeconds, undefined);
    };
    await say("the address of another", "request", b, taken);
    await say("after reboot in another network", "request", b, { requestedAddress: "192.168.1.5" });
    await say("lease of another network", "request", b, {}, { clientAddress: "192.168.1.5" });
    await say("beyond the pool", "request", b, { requestedAddress: "10.77.0.200" });
    await say("the server's own", "request", b, { requestedAddress: own });
    await say("another than it has", "request", a, { requestedAddress: "10.77.0.12" });
    await say("free, though unknown to us", "request", b, { requestedAddress: "10.77.0.12" });
    await say("another server's offer", "request", b, {
      requestedAddress: "10.77.0.12",
      serverIdentifier: "10.77.0.9",
    });
    await say("no address at all", "request", b, { serverIdentifier: own });
    await say("plain BOOTP", undefined, b);
    await say("an answer", "offer", b);
    await say("relayed from elsewhere", "discover", b, {}, { relayAddress: "192.168.1.1" });
    assert.deepEqual(answers, {
      "the address of another": "nak",
      "after reboot in another network": "nak",
      "lease of another network": "nak",
      "beyond the pool": "nak",
      "the server's own": "nak",
      "another than it has": "nak",
      "free, though unknown to us": "ack",
      "another server's offer": undefined,
      "no address at all": undefined,
      "plain BOOTP": undefined,
      "an answer": undefined,
      "relayed from elsewhere": undefined,
    });
  },
);

test("INFORM tells everything but an address, a relay gets the answer at port 67", withLan, async (t) => {
  const lan = await startLan(t);
  const machine = await lan.plugIn(a);
  await machine.run("ip", ["address", "add", "10.77.0.200/24", "dev", "eth0"]);
  const wire = await startWire(t, machine);
  await startDhcp(t, lan.host, { pool, dns: ["10.77.0.1"] });
  const told = await wire.ask(request("inform", a, {}, { clientAddress: "10.77.0.200" }));
  assert.deepEqual(
    [kind(told), told?.yourAddress, told?.options.dnsServers, told?.options.leaseSeconds],
    ["ack", "0.0.0.0", ["10.77.0.1"], undefined],
  );
  const relay = await startWire(t, machine, serverPort);
  const circuit = Uint8Array.of(1, 2, 7, 7);
  const relayed = request("discover", b, { relayAgentInformation: circuit }, { relayAddress: "10.77.0.200", hops: 1 });
  const offer = await relay.ask(relayed, { address: own });
  assert.deepEqual(
    [
      kind(offer),
      offer?.relayAddress,
      offer?.options.relayAgentInformation,
      macText(offer?.hardwareAddress ?? circuit),
    ],
    ["offer", "10.77.0.200", circuit, b],
  );
});

test("a declined address rests, the pool ends, and who released longest ago makes room", withLan, async (t) => {
  const lan = await startLan(t);
  const wire = await startWire(t, await lan.plugIn(a));
  const server = await startDhcp(t, lan.host, { pool });
  const take = async (mac: string) => {
    const address = (await wire.ask(request("discover", mac), {}, silenceMs))?.yourAddress;
    if (address === undefined) return undefined;
    await wire.ask(request("request", mac, { requestedAddress: address, serverIdentifier: own }));
    return address;
  };
  const drop = (type: "release" | "decline", mac: string, address: string) => {
    const isRelease = type === "release";
    const options = { serverIdentifier: own, ...(!isRelease && { requestedAddress: address }) };
    return wire.ask(request(type, mac, options, isRelease ? { clientAddress: address } : {}), {}, 100);
  };
  const [c, d] = ["02:00:00:00:00:0c", "02:00:00:00:00:0d"];
  assert.equal(await take(a), "10.77.0.10");
  await drop("decline", a, "10.77.0.10");
  await server.saysSoon(/found 10.77.0.10 taken/);
  assert.equal(await take(a), "10.77.0.11");
  assert.equal(await take(b), "10.77.0.12");
  assert.equal(await take(c), undefined);
  await server.saysSoon(/no address left/);
  await drop("release", b, "10.77.0.12");
  await drop("release", a, "10.77.0.11");
  assert.equal(await take(c), "10.77.0.12", "of b, who released before a");
  assert.equal(await take(a), "10.77.0.11", "still the same");
  assert.equal(await take(d), undefined, "what was declined rests for an hour");
});

test("only known boards, ignored boards and new reservations: all while it runs", withLan, async (t) => {
  const lan = await startLan(t);
  const wire = await startWire(t, await lan.plugIn(a));
  const server = await startDhcp(t, lan.host, { pool, onlyKnown: true, boot: { boards: { [b]: { file: "b.img" } } } });
  const offered = async (mac: string) => {
    const answer = await wire.ask(request("discover", mac), {}, silenceMs);
    return answer && [answer.yourAddress, answer.file];
  };
  assert.equal(await offered(a), undefined);
  assert.deepEqual(await offered(b), ["10.77.0.10", "b.img"]);
  await server.update({ reservations: { [a.toUpperCase()]: { address: "10.77.0.99" } }, boot: { file: "new.img" } });
  assert.deepEqual(await offered(a), ["10.77.0.99", "new.img"]);
  assert.equal(await offered(b), undefined);
  await server.update({ onlyKnown: false, ignore: [a] });
  assert.equal(await offered(a), undefined);
  assert.deepEqual(await offered(b), ["10.77.0.10", "new.img"]);
  // Whose reservation changes while it has a lease is sent to its new address when it asks for more time.
  await wire.ask(request("request", b, { requestedAddress: "10.77.0.10", serverIdentifier: own }));
  await server.update({ reservations: { [b]: { address: "10.77.0.50" } } });
  assert.equal(kind(await wire.ask(request("request", b, {}, { clientAddress: "10.77.0.10" }))), "nak");
  assert.deepEqual(await offered(b), ["10.77.0.50", "new.img"]);
});

test("each kind of firmware is told its own file, in the way that it takes", withLan, async (t) => {
  const lan = await startLan(t);
  const wire = await startWire(t, await lan.plugIn(a));
  await startDhcp(t, lan.host, {
    boot: {
      file: "any.img",
      architectures: { "efi-x64": "x64.efi", "efi-arm64": "arm64.efi", "uboot-arm64": "u-boot.img" },
      ipxe: "http://10.77.0.1/boot.ipxe",
      http: "http://10.77.0.1/shim.efi",
    },
  });
  const told = async (client: Parameters<typeof discoverOf>[0]) => {
    const since = wire.heard.length;
    wire.send(discoverOf(client));
    const deadline = Date.now() + 2000;
    while (wire.heard.length === since && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 5));
    const { file, nextServerAddress, options } = wire.heard[since] ?? assert.fail(`${client} got no answer`);
    const pxe = options.vendorInformation && decapsulate(options.vendorInformation)?.get(6)?.[0];
    const guid = options.clientMachineIdentifier?.length;
    return { file, next: nextServerAddress, option67: options.bootFile, class: options.vendorClass, pxe, guid };
  };
  const plain = { next: own, option67: undefined, class: undefined, pxe: undefined, guid: undefined };
  assert.deepEqual(await told("udhcpc 1.35"), { ...plain, file: "any.img" });
  assert.deepEqual(await told("U-Boot 2023.01"), { ...plain, file: "u-boot.img" });
  const pxe = { next: own, class: "PXEClient", pxe: 8, guid: 17 };
  assert.deepEqual(await told("OVMF 2022.11"), { ...pxe, file: "x64.efi", option67: "x64.efi" });
  const asUefi = { ...pxe, option67: undefined, guid: undefined };
  assert.deepEqual(await told("U-Boot 2023.01 as UEFI"), { ...asUefi, file: "arm64.efi" });
  const script = "http://10.77.0.1/boot.ipxe";
  assert.deepEqual(await told("iPXE 2019"), { ...pxe, file: script, option67: script });
  const shim = "http://10.77.0.1/shim.efi";
  const http = { ...pxe, class: "HTTPClient", pxe: undefined };
  assert.deepEqual(await told("OVMF 2022.11 over HTTP"), { ...http, file: shim, option67: shim });
});

test("why it cannot start is told: interface, address, port, config", withLan, async (t) => {
  const lan = await startLan(t);
  const why = (config: Parameters<typeof startDhcp>[2]) =>
    startDhcp(t, lan.host, config).then(
      () => "started",
      (error: unknown) => String(error),
    );
  assert.match(await why({ interface: "usb9" }), /E_DEVICE_OFFLINE there is no network interface usb9 \(.*`ip link`/);
  assert.match(await why({ interface: "lo", pool }), /E_INVALID DHCP: 10.77.0.10 is not in the network of 127.0.0.1/);
  await lan.host.run("ip", ["link", "add", "bare", "type", "bridge"]);
  assert.match(await why({ interface: "bare" }), /E_DEVICE_OFFLINE the network interface bare has no IPv4 address/);
  assert.match(await why({ reservations: { nonsense: { address: own } } }), /E_INVALID .*must be a MAC address/);
  await startDhcp(t, lan.host, { pool });
  assert.match(await why({ pool }), /E_IO port already in use: 67 on br0 \(another DHCP server/);
});
