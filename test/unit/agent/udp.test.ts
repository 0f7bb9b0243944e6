import assert from "node:assert/strict";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { closeSync, readFileSync } from "node:fs";
import { constants } from "node:os";
import { test, type TestContext } from "node:test";
import { loadKoffi } from "../../../agent/sys/native.ts";
import { layout, loadUdp, segmentsPerMessage } from "../../../agent/sys/udp.ts";

const udp = await loadUdp();

/** A socket that counts what it gets. */
async function receiver(t: TestContext, address: string) {
  const socket = createSocket({ type: address.includes(":") ? "udp6" : "udp4", recvBufferSize: 1 << 20 });
  t.after(() => socket.close());
  const packets: Buffer[] = [];
  socket.on("message", (packet) => packets.push(packet));
  socket.bind(0, address);
  await once(socket, "listening");
  const all = async (count: number) => {
    while (packets.length < count) await once(socket, "message");
    return packets.splice(0);
  };
  return { port: socket.address().port, all };
}

/** `count` packets side by side; the last one is shorter. */
function run(count: number, strideBytes: number): { packets: Buffer; each: Buffer[] } {
  const packets = Buffer.alloc(count * strideBytes - 5);
  const each: Buffer[] = [];
  for (let index = 0; index < count; index += 1) {
    const packet = packets.subarray(index * strideBytes, (index + 1) * strideBytes);
    packet.fill(index + 1);
    each.push(packet);
  }
  return { packets, each };
}

test("the structures are laid out as C lays them out", async () => {
  const koffi = await loadKoffi();
  const bytes = (length: number) => koffi.array("uint8_t", length);
  const sockaddrIn = koffi.struct({ family: "uint16_t", port: "uint16_t", address: bytes(4), zero: bytes(8) });
  const sockaddrIn6 = koffi.struct({
    family: "uint16_t",
    port: "uint16_t",
    flowInfo: "uint32_t",
    address: bytes(16),
    scopeId: "uint32_t",
  });
  const iovec = koffi.struct({ base: "void *", length: "size_t" });
  const msghdr = koffi.struct({
    name: "void *",
    nameLength: "uint32_t",
    iov: "void *",
    iovLength: "size_t",
    control: "void *",
    controlLength: "size_t",
    flags: "int",
  });
  const mmsghdr = koffi.struct({ header: msghdr, length: "unsigned int" });
  const cmsghdr = koffi.struct({ length: "size_t", level: "int", type: "int" });
  for (const [name, type] of Object.entries({ sockaddrIn, sockaddrIn6, iovec, msghdr, mmsghdr, cmsghdr })) {
    const { bytes: size, ...members } = layout[name as keyof typeof layout];
    assert.equal(size, koffi.sizeof(type), name);
    for (const [member, offset] of Object.entries(members)) {
      assert.equal(offset, koffi.offsetof(type, member), `${name}.${member}`);
    }
  }
});

for (const address of ["127.0.0.1", "::1"]) {
  test(`runs of packets arrive whole and in order, cut by the kernel or one by one, over ${address}`, async (t) => {
    const { port, all } = await receiver(t, address);
    const fd = udp.bind(address, 0);
    t.after(() => closeSync(fd));
    const sender = udp.sender(fd, address, port);
    for (const [count, strideBytes] of [
      [2, 12],
      [8, 1472],
      [64, 1472],
      [3, 9000],
      [100, 516],
    ] as const) {
      const { packets, each } = run(count, strideBytes);
      for (const segments of [1, segmentsPerMessage(strideBytes)]) {
        let sent = 0;
        while (sent < count) {
          const more = sender.send(packets.subarray(sent * strideBytes), strideBytes, segments);
          assert.ok(more > 0, `${count} of ${strideBytes}: errno ${-more}`);
          sent += more;
        }
        assert.equal(sent, count);
        assert.deepEqual(await all(count), each, `${count} of ${strideBytes}, ${segments} at once`);
      }
    }
  });
}

test("a socket goes over to dgram, which receives and sends on it", async (t) => {
  const { port, all } = await receiver(t, "127.0.0.1");
  const socket = createSocket("udp4");
  t.after(() => socket.close());
  const fd = udp.bind("127.0.0.1", 0);
  socket.bind({ fd });
  assert.equal(socket.address().address, "127.0.0.1");
  socket.send("hello", port, "127.0.0.1");
  assert.deepEqual((await all(1)).map(String), ["hello"]);
  // O_NONBLOCK | O_CLOEXEC: it neither stops this process nor reaches its children.
  const flags = parseInt(/flags:\s*(\d+)/.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "latin1"))?.[1] ?? "", 8);
  assert.equal(flags & 0o2004000, 0o2004000);
});

test("what the system refuses is told", () => {
  assert.throws(() => udp.bind("198.51.100.1", 0), { code: "EADDRNOTAVAIL", syscall: "bind" });
  assert.throws(() => udp.bind("localhost", 0), /not a numeric address/);
  const fd = udp.bind("127.0.0.1", 0);
  const sender = udp.sender(fd, "127.0.0.1", 9);
  closeSync(fd);
  assert.equal(sender.send(Buffer.alloc(20), 10, 2), -constants.errno.EBADF);
});
