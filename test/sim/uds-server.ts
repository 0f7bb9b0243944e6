/** What happens to the next request; asked in order. */
type Trouble = "silence" | "pending" | "pending forever" | "wrong echo" | "garbage" | "busy" | "afterthought";

/** One message of an ECU, after a while. */
export interface Saying {
  readonly afterMs: number;
  readonly message: Uint8Array;
}

const hex = (text: string) => Uint8Array.from(Buffer.from(text.replaceAll(" ", ""), "hex"));
const startWith = (bytes: Uint8Array, prefix: string) => Buffer.from(bytes).toString("hex").startsWith(prefix);

/** An ECU that speaks UDS: sessions, data, security, trouble codes, routines, authentication, file and block transfer. */
export class UdsServer {
  readonly data = new Map<number, Uint8Array>([
    [0xf190, Buffer.from("WVWZZZ1JZXW000001")],
    [0xf18c, hex("00ff80")],
  ]);
  /** DTC (3 bytes) and status. */
  dtcs: [number, number][] = [
    [0x010203, 0x2f],
    [0xc10000, 0x08],
  ];
  /** Every request so far, in hexadecimal. */
  readonly requests: string[] = [];
  readonly troubles: Trouble[] = [];
  session = 1;
  unlocked = false;
  /** Called for ECUReset. */
  onReset = (): void => {};
  #seeded = false;
  #wrongKeys = 0;
  #routine: "idle" | "started" | "stopped" = "idle";
  #block = 0;

  /** What it says to a request. */
  respond(request: Uint8Array): Saying[] {
    this.requests.push(Buffer.from(request).toString("hex"));
    const sid = request[0] ?? 0;
    const say = (...messages: Uint8Array[]): Saying[] => messages.map((message) => ({ afterMs: 0, message }));
    const pending = hex(`7f ${sid.toString(16).padStart(2, "0")} 78`);
    switch (this.troubles.shift()) {
      case "silence":
        return [];
      case "pending":
        return [
          { afterMs: 0, message: pending },
          { afterMs: 150, message: pending },
          { afterMs: 150, message: this.#answer(request) ?? pending },
        ];
      case "pending forever":
        return say(pending);
      case "wrong echo":
        return say(Uint8Array.of(sid + 0x40, 0xee, 0xee, 0xee));
      case "garbage":
        return say(hex("7f"), hex("00"), hex("ffffffffff"));
      case "afterthought":
        return say(this.#answer(request) ?? pending, hex("62f18cee"));
      case "busy":
        return say(hex(`7f ${sid.toString(16)} 21`));
      case undefined: {
        const answer = this.#answer(request);
        return answer === undefined ? [] : say(answer);
      }
    }
  }

  #answer(request: Uint8Array): Uint8Array | undefined {
    const [sid = 0, sub = 0] = request;
    const positive = (...data: (number | Uint8Array)[]) =>
      Uint8Array.from([sid + 0x40, ...data.flatMap((part) => (typeof part === "number" ? [part] : [...part]))]);
    const negative = (code: number) => Uint8Array.of(0x7f, sid, code);
    const word = (at: number) => ((request[at] ?? 0) << 8) | (request[at + 1] ?? 0);
    switch (sid) {
      case 0x10:
        if ((sub & 0x7f) === 0 || (sub & 0x7f) > 4) return negative(0x12);
        if (this.session === 1 && (sub & 0x7f) === 2) return negative(0x22);
        this.session = sub & 0x7f;
        return (sub & 0x80) !== 0 ? undefined : positive(sub, hex("03e8 01f4"));
      case 0x11:
        if (sub === 0 || sub > 3) return negative(0x12);
        [this.session, this.unlocked] = [1, false];
        this.onReset();
        return positive(sub);
      case 0x14:
        if (request.length !== 4) return negative(0x13);
        if (![0xffffff, 0x010000].includes((sub << 16) | word(2))) return negative(0x31);
        this.dtcs = [];
        return positive();
      case 0x19: {
        if (sub !== 2) return negative(0x12);
        const mask = request[2] ?? 0;
        const found = this.dtcs.filter(([, status]) => (status & mask) !== 0);
        return positive(
          2,
          0xff,
          ...found.flatMap(([dtc, status]) => [dtc >> 16, (dtc >> 8) & 0xff, dtc & 0xff, status]),
        );
      }
      case 0x22: {
        const parts: (number | Uint8Array)[] = [];
        for (let at = 1; at < request.length; at += 2) {
          const value = this.data.get(word(at));
          if (value !== undefined) parts.push(word(at) >> 8, word(at) & 0xff, value);
        }
        return parts.length === 0 ? negative(0x31) : positive(...parts);
      }
      case 0x2e:
        if (this.session === 1) return negative(0x7f);
        if (!this.unlocked && word(1) === 0xf190) return negative(0x33);
        if (word(1) === 0x0bad) return negative(0x72);
        this.data.set(word(1), request.slice(3));
        return positive(request.subarray(1, 3));
      case 0x27: {
        if (sub % 2 === 1) {
          if (this.#wrongKeys >= 3) return negative(0x37);
          this.#seeded = true;
          return positive(sub, hex(this.unlocked ? "00000000" : "11223344"));
        }
        if (!this.#seeded) return negative(0x24);
        this.#seeded = false;
        if (!startWith(request.subarray(2), "eeddccbb")) return negative((this.#wrongKeys += 1) > 1 ? 0x36 : 0x35);
        this.unlocked = true;
        return positive(sub);
      }
      case 0x29:
        if (sub === 0 || sub === 8) return positive(sub, sub === 0 ? 0x10 : 0x02);
        if (sub === 1) return positive(sub, 0x11, hex("0004 aabbccdd 0000"));
        if (sub === 2) return positive(sub, 0x11, hex("0002 aabb 0001 cc 0002 ddee 0001 ff"));
        if (sub === 3) return positive(sub, 0x12, hex("0003 010203"));
        if (sub === 5) return positive(sub, 0x00, request.subarray(3, 19), hex("0002 cafe 0000"));
        if (sub === 7) return positive(sub, 0x12, request.subarray(2, 18), hex("0001 77 0002 8899"));
        return negative(0x50);
      case 0x31:
        if (word(2) !== 0xff00) return negative(0x31);
        if (sub === 3 && this.#routine === "idle") return negative(0x24);
        this.#routine = sub === 1 ? "started" : sub === 2 ? "stopped" : this.#routine;
        return positive(
          request.subarray(1, 4),
          sub === 2 ? hex("") : request.subarray(4),
          sub === 3 ? hex("2a") : hex(""),
        );
      case 0x34:
        this.#block = 0;
        return this.session === 2 ? positive(hex("20 0402")) : negative(0x7f);
      case 0x36:
        if (sub !== ((this.#block + 1) & 0xff)) return negative(0x73);
        this.#block = sub;
        return positive(sub);
      case 0x37:
        return this.#block === 0 ? negative(0x24) : positive();
      case 0x38:
        if (sub === 2) return positive(2);
        if (sub === 4) return positive(4, hex("02 0ffa 00 0003 012345 000123"));
        if (sub === 5) return positive(5, hex("01 fe 00 0002 0222"));
        if (sub === 1 || sub === 3) return positive(sub, hex("02 0ffa 00"));
        return negative(0x70);
      case 0x3e:
        return (sub & 0x80) !== 0 ? undefined : positive(0);
      default:
        return negative(0x11);
    }
  }
}
