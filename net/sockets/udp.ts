import { createSocket, type Socket } from "node:dgram";
import { lookup } from "node:dns/promises";
import { once } from "node:events";
import { Duplex } from "node:stream";
import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import * as lax from "../../agent/driver/lax.ts";
import type { Logger } from "../../agent/driver/log.ts";
import { formatAddress, requireAddressEnabled } from "./address.ts";
import { addressedNetwork } from "./interface.ts";

/** Datagrams that may wait for a slow client; more are dropped, as every network does. */
const queueDatagrams = 1_024;

/** What the kernel may hold for us while the process is busy (bounded by net.core.rmem_max). */
const receiveBufferBytes = 1024 * 1024;

/** Errors that concern one datagram: nobody listens there yet, no route, too long, no room. */
const passing = new Set(["ECONNREFUSED", "EHOSTUNREACH", "ENETUNREACH", "EMSGSIZE", "ENOBUFS", "EAGAIN"]);

export default defineDriver({
  types: ["jumpstarter_driver_network.driver.UdpNetwork"],
  summary: "Exchanges datagrams with one UDP address; each stream has a port of its own.",
  implements: addressedNetwork,
  config: z.strictObject({
    host: z.string().min(1).describe("name, IPv4 or IPv6 address"),
    port: lax.port(),
    enable_address: lax.boolean().prefault(true).describe("tell clients the address, so they may use it directly"),
  }),
  open: ({ config: { host, port, enable_address }, log }) => ({
    methods: {
      async connect({ signal }) {
        const { address, family } = await lookup(host, { verbatim: true });
        signal.throwIfAborted();
        const socket = createSocket(family === 6 ? "udp6" : "udp4");
        try {
          const connected = once(socket, "connect");
          socket.connect(port, address);
          await connected;
          return datagrams(socket, log);
        } catch (error) {
          socket.close();
          throw error;
        }
      },
      address: async () => {
        requireAddressEnabled(enable_address);
        return `udp://${await formatAddress(host, port)}`;
      },
    },
  }),
});

/** A connected socket as a stream of datagrams: one chunk each, empty ones too. */
function datagrams(socket: Socket, log: Logger): Duplex {
  let dropped = 0;
  let lastError = "";
  /** True if the stream can go on; each kind of trouble is told once. */
  const survives = (error: NodeJS.ErrnoException): boolean => {
    if (!passing.has(error.code ?? "")) return false;
    if (lastError !== error.code) log.debug(`datagram lost: ${error.message}`);
    lastError = error.code ?? "";
    return true;
  };
  const stream = new Duplex({
    objectMode: true,
    readableHighWaterMark: queueDatagrams,
    read() {}, // dgram cannot be paused
    write(datagram: Uint8Array, _encoding, done) {
      socket.send(datagram, (error) => done(error === null || survives(error) ? null : error));
    },
    destroy(error, done) {
      if (dropped > 0) log.warn(`${dropped} datagrams dropped: the client did not read them in time`);
      socket.close();
      done(error);
    },
  });
  socket.on("message", (datagram) => {
    if (stream.readableLength < queueDatagrams) stream.push(datagram);
    else dropped += 1;
  });
  socket.on("error", (error) => {
    if (!survives(error)) stream.destroy(error);
  });
  stream.on("error", () => {}); // may break between two readers; it stays in `errored`
  socket.setRecvBufferSize(receiveBufferBytes);
  return stream;
}
