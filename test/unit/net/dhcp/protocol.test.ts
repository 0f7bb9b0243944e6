import assert from "node:assert/strict";
import { test } from "node:test";
import { machineOf } from "../../../../net/dhcp/boot-choice.ts";
import {
  bootReply,
  bootRequest,
  buildMessage,
  decapsulate,
  encapsulate,
  ethernet,
  macText,
  messageType,
  noAddress,
  parseMessage,
  userClasses,
  type DhcpMessage,
  type DhcpOptions,
} from "../../../../net/dhcp/protocol.ts";
import { clients, discoverOf } from "../../../sim/dhcp-vectors.ts";

const cookieAt = 236;
const bytes = (text: string) => new TextEncoder().encode(text);

function parsed(packet: Uint8Array): DhcpMessage {
  const message = parseMessage(packet);
  assert.ok(!("malformed" in message), JSON.stringify(message));
  return message;
}

function messageWith(options: DhcpOptions, more: Partial<DhcpMessage> = {}): DhcpMessage {
  return {
    op: bootReply,
    hardwareType: ethernet,
    hardwareAddress: Uint8Array.of(2, 0, 0, 0, 0, 1),
    hops: 0,
    transactionId: 0xfedcba98,
    seconds: 0,
    broadcast: false,
    clientAddress: noAddress,
    yourAddress: noAddress,
    nextServerAddress: noAddress,
    relayAddress: noAddress,
    serverName: "",
    file: "",
    options,
    ...more,
  };
}

/** A packet with these option bytes, in `options`, `file` and `sname`. */
function packetWith(options: number[], file: number[] = [], serverName: number[] = []): Uint8Array {
  const packet = new Uint8Array(Math.max(300, cookieAt + 4 + options.length));
  packet.set([bootRequest, ethernet, 6]);
  packet.set(serverName, 44);
  packet.set(file, 108);
  packet.set([99, 130, 83, 99, ...options], cookieAt);
  return packet;
}

test("the first packets of real clients say who they are and what they want", () => {
  const told = clients.map((client) => {
    const { options, ...message } = parsed(discoverOf(client));
    assert.equal(message.op, bootRequest);
    assert.equal(options.messageType, messageType.discover);
    const { firmware, architecture, mac } = machineOf({ ...message, options });
    return {
      client,
      mac,
      firmware,
      architecture,
      file: message.file,
      most: options.maxSizeBytes,
      broadcast: message.broadcast,
    };
  });
  const none = { architecture: undefined, file: "", broadcast: false };
  assert.deepEqual(told, [
    { ...none, client: "udhcpc 1.35", mac: "02:00:00:00:00:0a", firmware: "plain", most: 576 },
    { ...none, client: "dhclient 4.4.3", mac: "02:00:00:00:00:0a", firmware: "plain", most: undefined },
    { ...none, client: "U-Boot 2023.01", mac: "02:00:00:00:00:0b", firmware: "plain", architecture: "uboot-arm64", file: "boot.scr.uimg", most: 576 },
    { ...none, client: "U-Boot 2023.01 as UEFI", mac: "02:00:00:00:00:0b", firmware: "pxe", architecture: "efi-arm64", file: "boot.scr.uimg", most: 576 },
    { ...none, client: "iPXE 2019", mac: "02:00:00:00:00:0c", firmware: "ipxe", architecture: "bios", most: 1472 },
    { ...none, client: "OVMF 2022.11", mac: "02:00:00:00:00:0d", firmware: "pxe", architecture: "efi-x64", most: 1472, broadcast: true },
  
    {
      ...none,
      client: "OVMF 2022.11 over HTTP",
      mac: "02:00:00:00:00:0d",
      firmware: "http",
      architecture: "efi-x64-http",
      most: 1472,
      broadcast: true,
    },]); // prettier-ignore
});

test("what a real client sent is the same after it was built anew", () => {
  for (const client of clients) {
    const message = parsed(discoverOf(client));
    assert.deepEqual(parsed(buildMessage(message)), message, client);
  }
});

test("options that are unknown, or known and malformed, are kept as they came", () => {
  const { options } = parsed(packetWith([53, 1, 1, 1, 3, 255, 255, 0, 222, 2, 7, 8, 55, 0, 255]));
  assert.deepEqual(options, {
    messageType: messageType.discover,
    others: new Map([
      [1, Uint8Array.of(255, 255, 0)],
      [222, Uint8Array.of(7, 8)],
      [55, new Uint8Array()],
    ]),
  });
});

test("overloaded fields carry options, file before sname, and are no names then (RFC 2131 section 4.1)", () => {
  const inFile = [12, 3, 97, 98, 99, 255];
  const inName = [15, 3, 108, 97, 98, 255];
  const both = parsed(packetWith([53, 1, 1, 52, 1, 3, 255], inFile, inName));
  assert.deepEqual(both.options, { messageType: 1, hostName: "abc", domainName: "lab" });
  assert.deepEqual([both.file, both.serverName], ["", ""]);
  const onlyFile = parsed(packetWith([53, 1, 1, 52, 1, 1, 255], inFile, [...bytes("name")]));
  assert.deepEqual(onlyFile.options, { messageType: 1, hostName: "abc" });
  assert.equal(onlyFile.serverName, "name");
});

test("an option that is split, even over the fields, is put together in the order of RFC 3396", () => {
  const { options } = parsed(
    packetWith([12, 2, 97, 98, 52, 1, 3, 12, 1, 99, 255], [12, 1, 100, 255], [12, 1, 101, 255]),
  );
  assert.equal(options.hostName, "abcde");
  const long = `http://10.77.0.1/${"x".repeat(400)}`;
  assert.equal(parsed(buildMessage(messageWith({ bootFile: long }), 1500)).options.bootFile, long);
});

test("a message is never longer than the client takes: first file and sname carry options, then the last ones stay behind", () => {
  const options = { messageType: messageType.ack, bootFile: "b".repeat(200), hostName: "h".repeat(60), domainName: "d".repeat(100), message: "m".repeat(40) }; // prettier-ignore
  const packet = buildMessage(messageWith(options), 576);
  assert.ok(packet.length <= 576 - 28);
  assert.deepEqual(parsed(packet), messageWith(options));
  assert.notEqual(packet[108], 0, "the domain name is in `file`");
  const named = messageWith(options, { file: "kernel", serverName: "server" });
  const { domainName: _left, ...kept } = options;
  // Least that every client takes, whatever it claims.
  const { message: _alsoLeft, ...most } = kept;
  assert.deepEqual(parsed(buildMessage(named, 300)), { ...named, options: most });
  assert.deepEqual(parsed(buildMessage(named, 1500)), named);
});

test("short messages are filled up to the 300 bytes of BOOTP", () => {
  assert.equal(buildMessage(messageWith({ messageType: messageType.ack })).length, 300);
});

test("what is no DHCP is told, never thrown", () => {
  const reason = (packet: Uint8Array) => {
    const message = parseMessage(packet);
    return "malformed" in message ? message.malformed : undefined;
  };
  assert.match(reason(new Uint8Array()) ?? "", /0 bytes are too few/);
  assert.match(reason(new Uint8Array(300)) ?? "", /no DHCP cookie/);
  assert.match(reason(packetWith([53, 1, 1, ...Array<number>(60).fill(0), 12, 200, 1])) ?? "", /cut off/);
  assert.match(reason(packetWith([52, 1, 1, 255], [12, 127])) ?? "", /in `file` is cut off/);
  const fat = packetWith([53, 1, 1, 255]);
  fat[2] = 17;
  assert.match(reason(fat) ?? "", /hardware address of 17 bytes/);
  assert.equal(reason(packetWith([53, 1, 1])), undefined, "a missing end option is forgiven");
});

test("user classes are understood as RFC 3004 has them and as iPXE sends them", () => {
  assert.deepEqual(userClasses(bytes("iPXE")), ["iPXE"]);
  assert.deepEqual(userClasses(Uint8Array.of(4, ...bytes("iPXE"), 3, ...bytes("lab"))), ["iPXE", "lab"]);
  assert.deepEqual(userClasses(Uint8Array.of(4, ...bytes("iPX"))), ["\u0004iPX"]);
  assert.deepEqual(userClasses(undefined), []);
});

test("PXE's sub-options go into option 43 and come out", () => {
  const sub = new Map([
    [6, Uint8Array.of(8)],
    [71, Uint8Array.of(0, 0, 0, 0)],
  ]);
  assert.deepEqual(decapsulate(encapsulate(sub)), sub);
  assert.equal(decapsulate(Uint8Array.of(6, 9, 1)), undefined);
  assert.equal(macText(Uint8Array.of(2, 0, 0, 0, 0, 0xab)), "02:00:00:00:00:ab");
});
