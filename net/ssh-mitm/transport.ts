/**
 * The transport and the logins are ssh2's. From the login on, the messages of the connection protocol go past its channels:
 * those merge both ends of a stream's life (a server's `end` closes the channel, which cuts off the exit code), and repeat
 * data when standard output and standard error wait for a window at once. For that we reach into its packet layer, of
 * exactly this release.
 */
import type { Duplex } from "node:stream";
import type { Client, Connection } from "ssh2";
import { AgentError } from "../../agent/driver/errors.ts";

/** The packet layer of ssh2 1.17.0, as far as it is used here. */
interface PacketLayer {
  /** Gets every payload that is not part of a key exchange. */
  _onPayload: (payload: Buffer) => unknown;
  /** Set during a key exchange. */
  readonly _kexinit: unknown;
  /** What waits for its end. */
  _queue: Buffer[] | undefined;
  readonly _cipher: { encrypt(packet: Buffer): void };
  readonly _packetRW: { readonly write: { readonly allocStart: number; alloc(bytes: number): Buffer } };
  disconnect(reason: number): void;
}

/** First and last message number of the connection protocol. */
const connectionProtocol = { first: 80, last: 100 };

export interface MessagePort {
  /** Sends one message; the payload is copied. */
  send(payload: Buffer): void;
  /** From now on its messages of the connection protocol go to this receiver instead of ssh2. */
  receive(receiver: (payload: Buffer) => void): void;
}

/**
 * @param socket what the connection goes over
 * @throws AgentError E_FAILED if this is another release of ssh2 than we know
 */
export function messagePort(connection: Client | Connection, socket: Duplex): MessagePort {
  const layer = (connection as unknown as { _protocol?: PacketLayer })._protocol;
  if (typeof layer?._onPayload !== "function" || typeof layer._packetRW.write.alloc !== "function") {
    throw new AgentError("E_FAILED", "this release of ssh2 is not known");
  }
  let receiver: ((payload: Buffer) => void) | undefined;
  const ssh2Receives = layer._onPayload;
  // Each key exchange takes it from here.
  layer._onPayload = (payload) => {
    const number = payload[0] ?? 0;
    if (receiver === undefined || number < connectionProtocol.first || number > connectionProtocol.last) {
      return ssh2Receives(payload);
    }
    receiver(payload);
    return undefined;
  };
  const uncork = () => socket.uncork();
  return {
    send(payload) {
      // A packet is written in up to three pieces, and several come in one turn of the event loop: one system call for all.
      if (socket.writableCorked === 0) {
        socket.cork();
        setImmediate(uncork);
      }
      const { write } = layer._packetRW;
      const packet = write.alloc(payload.length);
      packet.set(payload, write.allocStart);
      if (layer._kexinit === undefined) layer._cipher.encrypt(packet);
      else (layer._queue ??= []).push(packet);
    },
    receive(wanted) {
      receiver = wanted;
    },
  };
}

/** A side that does not keep to its windows cannot fill our memory: it is not read while the other has this much to take. */
const mostUnsentBytes = 8 * 1024 * 1024;

/** Lets `source` rest while `target` has more to send than it should. @returns call it after each write to `target` */
export function restrain(source: Duplex, target: Duplex): () => void {
  let resting = false;
  return () => {
    if (resting || target.writableLength < mostUnsentBytes) return;
    resting = true;
    source.pause();
    target.once("drain", () => {
      resting = false;
      source.resume();
    });
  };
}
