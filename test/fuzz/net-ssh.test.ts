import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { parseBusAddresses } from "../../net/sockets/dbus-address.ts";
import { ChannelRelay } from "../../net/ssh-mitm/relay.ts";
import { parseKnownHosts, withPinnedKeys } from "../../net/ssh/known-hosts.ts";

const terminal = { columns: 80, rows: 24 };

/** Payloads with a message number of the connection protocol, often with small numbers where channels are numbered. */
const payload = fc
  .tuple(fc.integer({ min: 80, max: 100 }), fc.integer({ min: 0, max: 3 }), fc.uint8Array({ maxLength: 40 }))
  .map(([number, channel, rest]) => Buffer.from([number, 0, 0, 0, channel, ...rest]));

/** CHANNEL_OPEN and its confirmation, so that there are channels to talk about. */
const wellFormed = fc
  .tuple(fc.constantFrom("session", "direct-tcpip", "x11"), fc.integer({ min: 0, max: 3 }), fc.boolean())
  .map(([type, id, confirms]) =>
    confirms
      ? Buffer.from([91, 0, 0, 0, id, 0, 0, 0, id, 0, 0, 0, 9, 0, 0, 0, 9])
      : Buffer.concat([
          Buffer.from([90, 0, 0, 0, type.length]),
          Buffer.from(type),
          Buffer.from([0, 0, 0, id, 0, 0, 0, 9, 0, 0, 0, 9]),
        ]),
  );

const history = fc.array(fc.tuple(fc.boolean(), fc.oneof(payload, wellFormed)), { maxLength: 60 });

test("relay: whatever both sides say, only a malformed message ends it, and nothing that it does not allow passes", () => {
  fc.assert(
    fc.property(history, fc.boolean(), (said, forwarding) => {
      const passed: Buffer[] = [];
      const relay = new ChannelRelay({
        forwarding,
        maxChannels: 2,
        terminal,
        toClient: () => {},
        toDut: (bytes) => passed.push(Buffer.from(bytes)),
      });
      relay.connected();
      for (const [fromClient, bytes] of said) {
        try {
          if (fromClient) relay.fromClient(bytes);
          else relay.fromDut(bytes);
        } catch (error) {
          assert.ok(error instanceof RangeError, String(error));
        }
        assert.equal(typeof relay.idle, "boolean");
      }
      if (forwarding) return;
      for (const bytes of passed) {
        if (bytes[0] === 90) assert.ok(bytes.includes("session"));
        if (bytes[0] === 98) assert.ok(!bytes.includes("x11-req") && !bytes.includes("auth-agent-req"));
      }
    }),
    { numRuns: 500 },
  );
});

test("relay: what a client says before its board is there is bounded", () => {
  fc.assert(
    fc.property(fc.array(payload, { maxLength: 400 }), (said) => {
      const relay = new ChannelRelay({
        forwarding: false,
        maxChannels: 2,
        terminal,
        toClient: () => {},
        toDut: () => assert.fail("nothing is there"),
      });
      let taken = 0;
      try {
        for (const bytes of said) {
          relay.fromClient(bytes);
          taken += 1;
        }
      } catch (error) {
        assert.ok(error instanceof RangeError);
      }
      assert.ok(taken <= 256);
    }),
    { numRuns: 50 },
  );
});

test("known hosts: any text is keys or an error, and keys never leave the quotes of the command", () => {
  const word = fc.oneof(
    fc.constantFrom(
      "ssh-ed25519",
      "AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f",
      "'",
      '"',
      "#",
      "@x",
    ),
    fc.string({ maxLength: 12 }),
  );
  const line = fc.array(word, { maxLength: 5 }).map((words) => words.join(" "));
  fc.assert(
    fc.property(fc.array(line, { maxLength: 5 }), (lines) => {
      let keys;
      try {
        keys = parseKnownHosts(lines.join("\n"));
      } catch {
        return;
      }
      assert.match(withPinnedKeys("ssh", keys), /'KnownHostsCommand=\/bin\/sh -c "set -f; [A-Za-z0-9 %@.;+/=-]+"'$/);
    }),
    { numRuns: 500 },
  );
});

test("bus addresses: any text is addresses or an error that says so", () => {
  const piece = fc.oneof(
    fc.constantFrom("unix:", "tcp:", "path=", "abstract=", "host=", "port=1", ",", ";", "%41", "%", "=", "/a"),
    fc.string({ maxLength: 6 }),
  );
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 10 }), (pieces) => {
      try {
        assert.ok(parseBusAddresses(pieces.join("")).length > 0);
      } catch (error) {
        assert.match((error as Error).message, /^invalid bus (addr|scheme): /);
      }
    }),
    { numRuns: 500 },
  );
});
