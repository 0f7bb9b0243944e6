import { status, type ServerDuplexStream } from "@grpc/grpc-js";
import { randomUUID } from "node:crypto";
import { bearerToken } from "./auth.ts";
import type { Faults } from "./faults.ts";
import { signToken, verifyToken } from "./jwt.ts";
import type { Service } from "./port.ts";
import type { Records, TunnelRecord } from "./records.ts";
import { asRpcError, callOf, RpcError } from "./rpc.ts";

const issuer = "https://jumpstarter.dev/stream";
const audience = "https://jumpstarter.dev/router";
const validSeconds = 30 * 60;

/** Pairs the two ends of a tunnel by the subject of their tokens and copies messages between them. */
export interface Router {
  readonly service: Service;
  /** A token for a new tunnel. `validForSeconds` may be negative: a token that is expired already. */
  token(options?: { stream?: string; validForSeconds?: number }): { stream: string; token: string };
  /** Ends the RPCs of all tunnels, also of those that wait for a peer. Default: UNAVAILABLE. */
  dropTunnels(code?: status, details?: string): number;
  /** Callers that are connected now. */
  readonly open: number;
  /** Each message is forwarded that much later. */
  delayMs: number;
  /**
   * The real router ends the RPC of the surviving side only when that side next sends something. Set this to end it at
   * once.
   */
  prompt: boolean;
}

// Messages pass as they are: what a frame holds is none of the router's business.
type Raw = ServerDuplexStream<Buffer, Buffer>;

interface End {
  readonly stream: Raw;
  /** Ends the RPC. */
  finish(error?: RpcError): void;
  readonly finished: Promise<void>;
}

/** `key`: what tokens are signed with. */
export function createRouter(records: Records, faults: Faults, key: string): Router {
  const waiting = new Map<string, { end: End; record: TunnelRecord }>();
  const ends = new Set<End>();
  let delayMs = 0;
  let prompt = false;

  const authenticate = (metadata: Raw["metadata"]): string => {
    let token: string;
    try {
      token = bearerToken(metadata);
    } catch (error) {
      const details = `missing or invalid authorization: ${(error as Error).message}`;
      throw new RpcError(status.UNAUTHENTICATED, details);
    }
    const claims = verifyToken(token, key, Date.now() / 1000);
    if (claims?.iss !== issuer || !claims.aud.includes(audience)) {
      throw new RpcError(status.UNAUTHENTICATED, "invalid jwt token");
    }
    return claims.sub;
  };

  const stream = async (raw: Raw) => {
    const call = callOf("Stream", raw);
    const seen = records.call("Stream", call);
    raw.on("error", () => {});
    try {
      await faults.take("Stream", call)?.before();
      const subject = authenticate(raw.metadata);
      const end = endOf(raw, call.signal);
      ends.add(end);
      const peer = waiting.get(subject);
      let record: TunnelRecord;
      if (!peer) {
        const fresh = { stream: subject, callers: 1, messages: 0, bytes: 0, ended: 0 };
        record = { atMs: records.nowMs(), ...fresh };
        records.tunnels.push(record);
        waiting.set(subject, { end, record });
      } else {
        record = peer.record;
        record.callers = 2;
        waiting.delete(subject);
        void forward(end, peer.end, record);
      }
      records.touched();
      try {
        await end.finished;
      } finally {
        ends.delete(end);
        if (waiting.get(subject)?.end === end) waiting.delete(subject);
        record.ended++;
      }
      seen.end(call.signal.aborted ? status.CANCELLED : status.OK);
      raw.end();
    } catch (error) {
      const refusal = asRpcError(error, "Stream", records);
      seen.end(refusal.code, refusal.details);
      raw.emit("error", { code: refusal.code, details: refusal.details });
    }
    records.touched();
  };

  /** As the real router does it: the second caller gets the outcome, the first is let go whatever it was. */
  const forward = async (second: End, first: End, record: TunnelRecord) => {
    const pipes = [copy(second, first, record), copy(first, second, record)];
    let failure: RpcError | undefined;
    for (const pipe of pipes) pipe.catch((error: RpcError) => (failure ??= error));
    await (prompt ? Promise.all(pipes).catch(() => {}) : Promise.allSettled(pipes));
    second.finish(failure);
    first.finish();
  };
  const copy = (from: End, to: End, record: TunnelRecord) =>
    pump(from, to, delayMs, (message) => {
      record.messages++;
      record.bytes += message.length;
    });

  const router: Router = {
    service: {
      definition: {
        stream: {
          path: "/jumpstarter.v1.RouterService/Stream",
          requestStream: true,
          responseStream: true,
          requestSerialize: (bytes: Buffer) => bytes,
          requestDeserialize: (bytes) => bytes,
          responseSerialize: (bytes: Buffer) => bytes,
          responseDeserialize: (bytes) => bytes,
        },
      },
      implementation: { stream: (raw: Raw) => void stream(raw) },
    },
    token({ stream: subject = randomUUID(), validForSeconds = validSeconds } = {}) {
      const now = Math.floor(Date.now() / 1000);
      const times = { exp: now + validForSeconds, nbf: Math.min(now, now + validForSeconds), iat: now };
      const claims = { iss: issuer, sub: subject, aud: [audience], jti: randomUUID(), ...times };
      return { stream: subject, token: signToken(claims, key) };
    },
    dropTunnels(code = status.UNAVAILABLE, details = "router is shutting down") {
      const dropped = [...ends];
      for (const end of dropped) end.finish(new RpcError(code, details));
      return dropped.length;
    },
    get open() {
      return ends.size;
    },
    get delayMs() {
      return delayMs;
    },
    set delayMs(value) {
      delayMs = value;
    },
    get prompt() {
      return prompt;
    },
    set prompt(value) {
      prompt = value;
    },
  };
  return router;
}

function endOf(stream: Raw, signal: AbortSignal): End {
  let finish!: (error?: RpcError) => void;
  const finished = new Promise<void>((resolve, reject) => {
    finish = (error) => (error ? reject(error) : resolve());
  });
  finished.catch(() => {});
  signal.addEventListener("abort", () => finish(), { once: true });
  if (signal.aborted) finish();
  return { stream, finish, finished };
}

/** Copies until `from` half-closes; rejects when `from` is gone, or when it sends and `to` is gone. */
function pump(from: End, to: End, delayMs: number, passed: (message: Buffer) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    let toGone = false;
    const stop = (outcome: () => void) => {
      from.stream.off("data", take).off("end", half).pause();
      outcome();
    };
    const give = (message: Buffer) => {
      if (toGone) return stop(() => reject(new RpcError(status.UNAVAILABLE, "transport is closing")));
      passed(message);
      if (to.stream.write(message)) return;
      from.stream.pause();
      to.stream.once("drain", () => from.stream.resume());
    };
    const later = (action: () => void) => (delayMs > 0 ? void setTimeout(action, delayMs).unref() : action());
    const take = (message: Buffer) => later(() => give(message));
    // A caller that has cancelled seems to half-close first; the cancellation follows at once, and then wins.
    const half = () => later(() => setImmediate(() => stop(resolve)));
    to.finished.then(
      () => (toGone = true),
      () => (toGone = true),
    );
    const gone = () => stop(() => reject(new RpcError(status.CANCELLED, "context canceled")));
    from.finished.then(gone, gone);
    from.stream.on("data", take).on("end", half);
  });
}
