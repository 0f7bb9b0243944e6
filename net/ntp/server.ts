import { createSocket, type Socket } from "node:dgram";
import { once } from "node:events";
import type { Logger } from "../../agent/driver/log.ts";
import { answer, type ClockQuality } from "./protocol.ts";

export interface NtpServerOptions {
  readonly host: string;
  readonly port: number;
  readonly clock: () => ClockQuality;
  /** Give out the time of a clock that nothing keeps right. */
  readonly anyway: boolean;
  readonly log: Logger;
}

/** Tells boards the host's time. */
export class NtpServer {
  readonly #socket: Socket;

  private constructor(socket: Socket) {
    this.#socket = socket;
  }

  /** Listens. @throws the system's error */
  static async start({ host, port, clock, anyway, log }: NtpServerOptions): Promise<NtpServer> {
    const socket = createSocket("udp4");
    socket.on("message", (request, peer) => {
      const reply = answer(request, Date.now(), clock(), anyway);
      if (reply !== undefined) socket.send(reply, peer.port, peer.address, () => {});
    });
    const listening = once(socket, "listening");
    socket.bind(port, host);
    try {
      await listening;
    } catch (error) {
      socket.close();
      throw error;
    }
    socket.on("error", (error) => log.warn(`NTP: ${error.message}`));
    return new NtpServer(socket);
  }

  get port(): number {
    return this.#socket.address().port;
  }

  stop(): void {
    this.#socket.close();
  }
}
