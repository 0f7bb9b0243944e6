import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { closeSync } from "node:fs";
import { constants } from "node:os";
import { test } from "node:test";
import { loadKoffi } from "../../../agent/sys/native.ts";
import { socketCalls, SOCK_DGRAM, SOCK_NONBLOCK, SOCK_RAW, SOL_SOCKET } from "../../../agent/sys/sockets.ts";
import { cValues, noCompiler } from "../../sim/c-values.ts";

const [AF_NETLINK, NETLINK_ROUTE, SO_RCVBUF] = [16, 0, 8];

test("numbers of sockets are C's", { skip: noCompiler }, (t) => {
  assert.deepEqual(
    cValues(t, ["sys/socket.h"], ["SOCK_DGRAM", "SOCK_RAW", "SOCK_NONBLOCK", "SOL_SOCKET", "AF_NETLINK", "SO_RCVBUF"]),
    [SOCK_DGRAM, SOCK_RAW, SOCK_NONBLOCK, SOL_SOCKET, AF_NETLINK, SO_RCVBUF],
  );
});

test("a refused call has the system's error, and one that would wait says so by its number", async () => {
  const sockets = socketCalls(await loadKoffi());
  assert.throws(() => sockets.open(255, SOCK_RAW, 0, "open it"), { code: "EAFNOSUPPORT", syscall: "open it" });
  const fd = sockets.open(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK, NETLINK_ROUTE, "open it");
  try {
    sockets.setOption(fd, SOL_SOCKET, SO_RCVBUF, 65_536, "have room");
    assert.throws(() => sockets.setOption(fd, SOL_SOCKET, 9_999, 1, "have more"), { code: "ENOPROTOOPT" });
    assert.throws(() => sockets.bind(fd, Buffer.alloc(2), "bind it"), { code: "EINVAL", syscall: "bind it" });
    assert.equal(sockets.receive(fd, Buffer.alloc(16)), -constants.errno.EAGAIN);
  } finally {
    closeSync(fd);
  }
  assert.equal(sockets.send(fd, Buffer.alloc(1)), -constants.errno.EBADF);
});

test(
  "a network link that is set up is told",
  { skip: process.getuid?.() !== 0 && "needs root (network namespaces)" },
  () => {
    const script = `
    import { execFileSync } from "node:child_process";
    import { watchPlugs } from "./agent/sys/plug-events.ts";
    const late = setTimeout(() => {}, 5_000);
    const stop = await watchPlugs(() => {
      console.log("told");
      clearTimeout(late);
      stop();
    });
    execFileSync("ip", ["link", "set", "lo", "up"]);
  `;
    const words = ["--net", process.execPath, "--import", "tsx", "--input-type=module", "--eval", script];
    assert.match(execFileSync("unshare", words, { encoding: "utf8" }), /told/);
  },
);
