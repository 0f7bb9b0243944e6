import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { buildMessage, decapsulate, messageType, noAddress, parseMessage } from "../../../../net/dhcp/protocol.ts";
import { scratch } from "../../../sim/agent.ts";
import { discoverOf, type Client } from "../../../sim/dhcp-vectors.ts";
import { request, startWire, type DhcpWire, type Heard } from "../../../sim/dhcp-wire.ts";
import { startDhcp, startLan, type Lan } from "../../../sim/lan.ts";
import type { NetworkNamespace } from "../../../sim/network-namespace.ts";

const needs = { skip: spawnSync("dnsmasq", ["--version"]).error !== undefined && "needs dnsmasq (dnsmasq-base)" };
const a = "02:00:00:00:00:0a";
const b = "02:00:00:00:00:0b";
const own = "10.77.0.1";
const foreign = "10.77.0.3";

/** dnsmasq as the DHCP server, at 10.77.0.3 on a machine of its own. */
async function startDnsmasq(t: TestContext, lan: Lan, address: string): Promise<NetworkNamespace> {
  const machine = await lan.plugIn("02:00:00:00:00:d0");
  await machine.run("ip", ["address", "add", `${address}/24`, "dev", "eth0"]);
  const words = ["-k", "--port=0", "--no-ping", "--interface=eth0", "--dhcp-authoritative", "--conf-file=/dev/null", "--user=root", "--pid-file=", "--log-dhcp", "--log-facility=-", "--dhcp-range=10.77.0.10,10.77.0.12,10m", `--dhcp-leasefile=${join(scratch(t), "leases")}`]; // prettier-ignore
  const dnsmasq = machine.spawn("dnsmasq", words, { stdio: ["ignore", "ignore", "pipe"] });
  await once(dnsmasq.stderr ?? assert.fail(), "data");
  return machine;
}

const kind = (answer: Heard | undefined) =>
  Object.entries(messageType).find(([, type]) => type === answer?.options.messageType)?.[0];

/** All answers to a message that come within `ms`. */
async function answersTo(wire: DhcpWire, packet: Uint8Array, to = {}, ms = 500): Promise<Heard[]> {
  const since = wire.heard.length;
  const id = parseMessage(packet);
  wire.send(packet, to);
  await new Promise((resolve) => setTimeout(resolve, ms));
  return wire.heard
    .slice(since)
    .filter(({ transactionId }) => !("malformed" in id) && transactionId === id.transactionId);
}

test(
  "beside dnsmasq, firmware gets the address of dnsmasq and the boot file of the proxy; nobody else hears of it",
  needs,
  async (t) => {
    const lan = await startLan(t);
    const machine = await lan.plugIn(a);
    const wire = await startWire(t, machine);
    await startDnsmasq(t, lan, foreign);
    await startDhcp(t, lan.host, {
      mode: "proxy",
      boot: {
        file: "any.0",
        ipxe: "boot.ipxe",
        http: "http://10.77.0.1/x.efi",
        architectures: { "efi-x64": "x64.efi" },
        boards: { [b]: { file: "b.img" } },
      },
    });
    const offers = async (client: Client) => {
      const message = parseMessage(discoverOf(client));
      assert.ok(!("malformed" in message));
      // dnsmasq would send to an address that this client does not have yet.
      const heard = await answersTo(wire, buildMessage({ ...message, broadcast: true }, 1500));
      assert.ok(
        heard.some(({ from, yourAddress }) => from.address === foreign && yourAddress !== noAddress),
        client,
      );
      const ours = heard.filter(({ from }) => from.address === own);
      assert.ok(ours.length <= 1);
      const [offer] = ours;
      if (offer === undefined) return undefined;
      assert.equal(kind(offer), "offer");
      assert.equal(offer.yourAddress, noAddress);
      assert.equal(offer.options.leaseSeconds, undefined);
      const { vendorClass, vendorInformation } = offer.options;
      const control = vendorInformation && decapsulate(vendorInformation)?.get(6)?.[0];
      return [offer.file, offer.nextServerAddress, vendorClass, control];
    };
    assert.deepEqual(await offers("iPXE 2019"), ["boot.ipxe", own, "PXEClient", 8]);
    assert.deepEqual(await offers("OVMF 2022.11 over HTTP"), ["http://10.77.0.1/x.efi", own, "HTTPClient", undefined]);
    assert.deepEqual(await offers("OVMF 2022.11"), ["", own, "PXEClient", undefined], "UEFI asks for its file at 4011");
    assert.equal(await offers("udhcpc 1.35"), undefined);
    assert.equal(await offers("U-Boot 2023.01"), undefined);
    assert.equal(await offers("U-Boot 2023.01 as UEFI"), undefined, "it would take a proxy's offer for an address");

    await machine.run("ip", ["address", "add", "10.77.0.10/24", "dev", "eth0"]);
    const uefi = parseMessage(discoverOf("OVMF 2022.11"));
    assert.ok(!("malformed" in uefi));
    const asked = {
      ...uefi,
      clientAddress: "10.77.0.10",
      options: { ...uefi.options, messageType: messageType.request },
    };
    const told = await wire.ask(asked, { address: own, port: 4011 });
    assert.deepEqual(
      [kind(told), told?.file, told?.from.port, told?.options.vendorClass],
      ["ack", "x64.efi", 4011, "PXEClient"],
    );
    const selected = { ...asked, transactionId: 7, options: { ...asked.options, serverIdentifier: own } };
    const atPort67 = await answersTo(wire, buildMessage(selected, 1500));
    // dnsmasq may have something to say to it, too.
    const ours = atPort67.filter(({ from }) => from.address === own);
    assert.deepEqual(
      ours.map(({ file }) => file),
      ["x64.efi"],
      "who asks at 67 is told, too",
    );
    const forOther = { ...asked, transactionId: 8, options: { ...asked.options, serverIdentifier: foreign } };
    assert.ok((await answersTo(wire, buildMessage(forOther, 1500))).every(({ from }) => from.address !== own));
  },
);

test("the same packets are answered as dnsmasq answers them, but where we mean to differ", needs, async (t) => {
  const script = async (server: string, start: (lan: Lan) => Promise<unknown>) => {
    const lan = await startLan(t);
    if (server !== own) await lan.host.run("ip", ["address", "flush", "dev", "br0"]);
    const wire = await startWire(t, await lan.plugIn(a));
    await start(lan);
    const said: Record<string, string | undefined> = {};
    const say = async (what: string, message: ReturnType<typeof request>) => {
      const answer = (await wire.ask(message, {}, 600)) ?? undefined;
      said[what] = kind(answer);
      return answer;
    };
    const offer = await say("DISCOVER", request("discover", a));
    const address = offer?.yourAddress ?? "";
    const selecting = { requestedAddress: address, serverIdentifier: server };
    await say("SELECTING", request("request", a, selecting));
    await say("SELECTING again", request("request", a, selecting));
    await say("INIT-REBOOT, its address", request("request", a, { requestedAddress: address }));
    await say(
      "INIT-REBOOT, another address",
      request("request", a, { requestedAddress: "10.77.0.12" === address ? "10.77.0.11" : "10.77.0.12" }),
    );
    await say("INIT-REBOOT, another network", request("request", a, { requestedAddress: "192.168.1.9" }));
    await say("SELECTING, another's address", request("request", b, selecting));
    await say("SELECTING, another server", request("request", b, { ...selecting, serverIdentifier: "10.77.0.99" }));
    await say("INIT-REBOOT, another's address", request("request", b, { requestedAddress: address }));
    await say("DISCOVER again", request("discover", a));
    await say("RELEASE", request("release", a, { serverIdentifier: server }, { clientAddress: address }));
    const again = await say("DISCOVER after RELEASE", request("discover", a));
    said["same address after RELEASE"] = String(again?.yourAddress === address);
    await say("plain BOOTP", request(undefined, a));
    await say("OFFER of a client", request("offer", a));
    return said;
  };
  const pool = { first: "10.77.0.10", last: "10.77.0.12" };
  const ours = await script(own, (lan) => startDhcp(t, lan.host, { pool, leaseSeconds: 600 }));
  const theirs = await script("10.77.0.2", (lan) => startDnsmasq(t, lan, "10.77.0.2"));
  const differences = Object.keys(ours).filter((what) => ours[what] !== theirs[what]);
  const told = differences.map((what) => ({ what, ours: ours[what], theirs: theirs[what] }));
  // RFC 2131 section 3.1 step 4: who was not chosen takes note and says nothing.
  assert.deepEqual(told, [{ what: "SELECTING, another server", ours: undefined, theirs: "nak" }]);
});
