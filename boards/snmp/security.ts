import { BerError } from "./ber.ts";
import * as protocol from "./protocol.ts";
import { flags, pduTypes, versions, type Pdu } from "./protocol.ts";
import * as usm from "./usm.ts";

/** What a datagram means for a request. */
export type Answer =
  | { readonly is: "response"; readonly pdu: Pdu }
  /** The agent has told what it needs to understand the request: it should be sent again at once. */
  | { readonly is: "news" }
  | { readonly is: "refusal"; readonly indication: string }
  /** From somebody else, for somebody else, or damaged. */
  | { readonly is: "noise" };

/** How requests are wrapped and answers believed. One per driver; what it learns of the agent stays. */
export interface Security {
  /** Bytes for the wire. The message's id is the caller's to choose, anew for each sending. */
  wrap(pdu: Pdu, messageId: number): Uint8Array;
  /** @param messageIds of all sendings of this PDU */
  read(bytes: Uint8Array, pdu: Pdu, messageIds: ReadonlySet<number>): Answer;
}

const noise: Answer = { is: "noise" };

/** Damaged bytes are noise: the true answer may still come. */
function quietly(read: () => Answer): Answer {
  try {
    return read();
  } catch {
    return noise; // BerError, or a cipher's
  }
}

const answers = (pdu: Pdu, request: Pdu): Answer =>
  pdu.type === pduTypes.response && pdu.requestId === request.requestId ? { is: "response", pdu } : noise;

/** SNMPv1 and v2c: whoever knows the community may. */
export function communitySecurity(version: "1" | "2c", community: string): Security {
  return {
    wrap: (pdu) => protocol.encodeCommunityMessage(versions[version], community, pdu),
    read: (bytes, request) =>
      quietly(() => {
        const message = protocol.decodeCommunityMessage(bytes);
        if (message.version !== versions[version] || message.community !== community) return noise;
        return answers(message.pdu, request);
      }),
  };
}

export interface User {
  readonly name: string;
  readonly auth: { readonly protocol: usm.AuthProtocol; readonly passphrase: string } | undefined;
  /** Only with `auth`. */
  readonly priv: { readonly protocol: usm.PrivProtocol; readonly passphrase: string } | undefined;
}

/** The agent's engine as far as it is known. */
interface Engine {
  readonly id: Uint8Array;
  readonly authKey: Buffer | undefined;
  readonly privKey: Buffer | undefined;
  boots: number;
  /** Engine time 0 in seconds of our monotonic clock. */
  epochS: number;
}

/** Counters by which an engine says what is wrong with a request (RFC 3414 §5). */
const usmStats = "1.3.6.1.6.3.15.1.1.";
const indications = new Map([
  ["1", "unsupported security level"],
  ["3", "unknown user name"],
  ["5", "wrong authentication key or protocol"],
  ["6", "wrong privacy key or protocol"],
]);
const notInTimeWindow = "2";
const unknownEngine = "4";

const nobody = new Uint8Array();
const nowS = () => performance.now() / 1000;

/** SNMPv3 with the User-based Security Model. */
export class UserSecurity implements Security {
  readonly #user: User;
  /** What every request of ours has, and every response to it must have. */
  readonly #level: number;
  #engine: Engine | undefined;

  constructor(user: User) {
    this.#user = user;
    this.#level = (user.auth === undefined ? 0 : flags.authenticated) | (user.priv === undefined ? 0 : flags.encrypted);
  }

  wrap(pdu: Pdu, messageId: number): Uint8Array {
    const engine = this.#engine;
    const common = { messageId, authentication: nobody, privacy: nobody };
    if (engine === undefined) {
      // An engine that is asked without its id answers with it.
      const question = protocol.request("get", pdu.requestId, []);
      const data = protocol.encodeScopedPdu(nobody, question);
      const unknown = { engineId: nobody, engineBoots: 0, engineTime: 0, user: "" };
      return protocol.encodeSecuredMessage({ ...common, ...unknown, flags: flags.reportable, data }).bytes;
    }
    const clock = { engineBoots: engine.boots, engineTime: Math.max(0, Math.floor(nowS() - engine.epochS)) };
    const { auth, priv, name: user } = this.#user;
    let data = protocol.encodeScopedPdu(engine.id, pdu);
    let privacy = nobody;
    if (priv !== undefined && engine.privKey !== undefined) {
      ({ data, privacy } = usm.encrypt(priv.protocol, engine.privKey, clock, data));
    }
    const authentication = auth === undefined ? nobody : new Uint8Array(usm.codeBytes(auth.protocol));
    const { bytes, authenticationAt } = protocol.encodeSecuredMessage({
      ...{ ...common, ...clock, engineId: engine.id, user, data, privacy, authentication },
      flags: this.#level | flags.reportable,
    });
    if (auth !== undefined && engine.authKey !== undefined) {
      bytes.set(usm.authenticationCode(auth.protocol, engine.authKey, bytes), authenticationAt);
    }
    return bytes;
  }

  read(bytes: Uint8Array, request: Pdu, messageIds: ReadonlySet<number>): Answer {
    return quietly(() => this.#read(bytes, request, messageIds));
  }

  #read(bytes: Uint8Array, request: Pdu, messageIds: ReadonlySet<number>): Answer {
    const message = protocol.decodeSecuredMessage(bytes);
    if (!messageIds.has(message.messageId)) return noise;
    const engine = this.#engine;
    const { auth, priv } = this.#user;
    const isAuthenticated = (message.flags & flags.authenticated) !== 0;
    if (isAuthenticated) {
      if (auth === undefined || engine?.authKey === undefined || !isSame(engine.id, message.engineId)) return noise;
      if (!usm.isAuthentic(auth.protocol, engine.authKey, bytes, message.authenticationAt)) return noise;
      // Its id is a random number that we have just made up, so this is no old message.
      engine.boots = message.engineBoots;
      engine.epochS = nowS() - message.engineTime;
    }
    let { data } = message;
    if ((message.flags & flags.encrypted) !== 0) {
      if (!isAuthenticated || priv === undefined || engine?.privKey === undefined) return noise;
      data = usm.decrypt(priv.protocol, engine.privKey, message, message);
    }
    const pdu = protocol.decodeScopedPdu(data);
    if (pdu.type === pduTypes.report) return this.#report(pdu, message, isAuthenticated);
    if ((message.flags & this.#level) !== this.#level || engine === undefined) return noise;
    if (message.user !== this.#user.name || !isSame(engine.id, message.engineId)) return noise;
    return answers(pdu, request);
  }

  #report(pdu: Pdu, message: protocol.SecuredMessage, isAuthenticated: boolean): Answer {
    const oid = pdu.bindings[0]?.oid ?? "";
    const reason = oid.startsWith(usmStats) ? oid.slice(usmStats.length).replace(/\.0$/, "") : "";
    if (reason === unknownEngine) {
      if (this.#engine !== undefined && isSame(this.#engine.id, message.engineId)) return noise;
      this.#meet(message);
      return { is: "news" };
    }
    // Only with a code: otherwise anybody could set our clock.
    if (reason === notInTimeWindow) return isAuthenticated ? { is: "news" } : noise;
    const indication = indications.get(reason) ?? `report ${oid === "" ? "of nothing" : oid}`;
    return { is: "refusal", indication };
  }

  #meet({ engineId, engineBoots, engineTime }: protocol.SecuredMessage): void {
    // RFC 3411 §5, SnmpEngineID
    if (engineId.length < 5 || engineId.length > 32) throw new BerError("an engine id of a wrong length");
    const { auth, priv } = this.#user;
    const id = Uint8Array.from(engineId);
    this.#engine = {
      id,
      authKey: auth && usm.localizedKey(auth.protocol, auth.passphrase, id),
      privKey: auth && priv && usm.privacyKey(auth.protocol, priv.protocol, priv.passphrase, id),
      boots: engineBoots,
      epochS: nowS() - engineTime,
    };
  }
}

function isSame(one: Uint8Array, other: Uint8Array): boolean {
  return Buffer.compare(one, other) === 0;
}
