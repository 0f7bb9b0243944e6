// What DUTLink, YKUSH and NOYITO boards, hubs and EnerGenie strips answer, as it should be and as it should not.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { ModeWatch, parseMeter, replyText } from "../../boards/dutlink/protocol.ts";
import { isLoggedIn, socketStates } from "../../boards/energenie/protocol.ts";
import { hasPower, parseHubDescriptor } from "../../boards/hub-port/protocol.ts";
import { readStatus, summary } from "../../boards/noyito/protocol.ts";
import { portState, succeeded } from "../../boards/yepkit/protocol.ts";

const numRuns = 10_000;
const bytes = fc.uint8Array({ maxLength: 80 });

test("any reply of a DUTLink meter is a reading of two finite numbers, or none", () => {
  const token = fc.oneof(
    fc
      .tuple(fc.double({ noNaN: true, min: -100, max: 100 }), fc.constantFrom("V", "A", "W", "v", "a", "", "Ω"))
      .map(([value, unit]) => value.toFixed(2) + unit),
    fc.string({ unit: fc.constantFrom(..."0123456789.+-eVAW \0"), maxLength: 40 }),
    fc.string({ maxLength: 10 }),
  );
  const reply = fc.oneof(
    bytes,
    fc.array(token, { maxLength: 8 }).map((tokens) => Buffer.from(tokens.join(" "))),
  );
  fc.assert(
    fc.property(reply, (raw) => {
      const reading = parseMeter(replyText(raw));
      if (reading !== undefined) assert.ok(Number.isFinite(reading.voltage) && Number.isFinite(reading.current));
    }),
    { numRuns },
  );
  const value = fc.integer({ min: -9_999, max: 9_999 }).map((hundredths) => hundredths / 100);
  fc.assert(
    fc.property(value, value, fc.shuffledSubarray([0, 1, 2], { minLength: 3 }), (voltage, current, order) => {
      const tokens = [`${voltage.toFixed(2)}V`, `${current.toFixed(2)}A`, `${(voltage * current).toFixed(2)}W`];
      assert.deepEqual(parseMeter(order.map((index) => tokens[index]).join(" ")), {
        voltage: voltage + 0,
        current: current + 0,
      });
    }),
    { numRuns },
  );
});

test("the console's mode is the same however what is written is cut into pieces", () => {
  const text = fc.array(fc.constantFrom("\x02".repeat(5), "\x02", "console\r", "console", "\r", "\n", "x"), {
    maxLength: 20,
  });
  fc.assert(
    fc.property(text, fc.integer({ min: 1, max: 9 }), (parts, size) => {
      const all = Buffer.from(parts.join(""), "latin1");
      const [whole, pieces] = [new ModeWatch(), new ModeWatch()];
      whole.wrote(all);
      for (let at = 0; at < all.length; at += size) pieces.wrote(all.subarray(at, at + size));
      assert.equal(pieces.mode, whole.mode);
      if (!all.includes("\x02".repeat(5), 0, "latin1")) assert.equal(whole.mode, "unknown");
    }),
    { numRuns },
  );
});

test("any reply of a YKUSH is a state of the port that was asked for, or none", () => {
  fc.assert(
    fc.property(bytes, fc.integer({ min: 1, max: 3 }), (reply, port) => {
      const state = portState(reply, port);
      if (state !== undefined) {
        assert.ok(succeeded(reply));
        assert.equal(reply[1], (state ? 0x10 : 0) | port);
      }
    }),
    { numRuns },
  );
  const nearly = fc.tuple(fc.constantFrom(0, 1, 255), fc.integer({ min: 0, max: 255 }));
  fc.assert(
    fc.property(nearly, fc.integer({ min: 1, max: 3 }), ([first, second], port) => {
      const state = portState(Uint8Array.of(first, second), port);
      assert.equal(
        state,
        first !== 1 ? undefined : second === port ? false : second === (0x10 | port) ? true : undefined,
      );
    }),
    { numRuns },
  );
});

test("any answer of a NOYITO board names channels with on or off, and pieces never say more than the whole", () => {
  const line = fc.oneof(
    fc
      .tuple(fc.nat(9), fc.constantFrom("ON", "OFF", "on", "O", ""), fc.constantFrom(" ", "", "\0"))
      .map(([channel, state, end]) => `CH${channel}:${state}${end}\r\n`),
    fc.string({ maxLength: 12 }),
  );
  fc.assert(
    fc.property(fc.array(line, { maxLength: 12 }), fc.nat(120), (lines, cut) => {
      const text = lines.join("");
      const whole = readStatus(text, true);
      for (const state of whole.values()) assert.ok(state === "on" || state === "off");
      // What is read early must be what is read in the end, unless a later line says otherwise.
      const early = readStatus(text.slice(0, cut));
      for (const channel of early.keys()) assert.ok(whole.has(channel));
      assert.ok(["on", "off", "partial"].includes(summary([...whole.values()])));
    }),
    { numRuns },
  );
});

test("any page of an EnerGenie has four states or none", () => {
  const item = fc.oneof(fc.constantFrom("0", "1", " 1", "2", "", "x"), fc.string({ maxLength: 3 }));
  const page = fc.oneof(
    fc.string({ maxLength: 200 }),
    fc
      .tuple(fc.string({ maxLength: 20 }), fc.array(item, { maxLength: 6 }), fc.string({ maxLength: 20 }))
      .map(([before, items, after]) => `${before} var sockstates = [${items.join(",")}];${after}`),
  );
  fc.assert(
    fc.property(page, (text) => {
      const states = socketStates(text);
      if (states !== undefined) assert.equal(states.length, 4);
      assert.equal(typeof isLoggedIn(text), "boolean");
    }),
    { numRuns },
  );
});

test("any descriptor and status of a hub is understood or not", () => {
  fc.assert(
    fc.property(bytes, fc.boolean(), (raw, superSpeed) => {
      const facts = parseHubDescriptor(raw);
      if (facts !== undefined) assert.ok(facts.ports >= 1 && facts.ports <= 255);
      assert.equal(hasPower(raw, superSpeed) === undefined, raw.length < 4);
    }),
    { numRuns },
  );
});
