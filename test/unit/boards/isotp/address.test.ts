import assert from "node:assert/strict";
import { test } from "node:test";
import { targetOf, type Address } from "../../../../boards/isotp/address.ts";
import { isoTpAddress } from "../../../../boards/isotp/schema.ts";

const parse = (given: unknown): Address => isoTpAddress.parse(given);
const frame = (id: number, extended: boolean, data: number[] = [0x01, 0x3e]) => ({
  id,
  extended,
  data: Uint8Array.from(data),
});

interface Case {
  readonly given: Record<string, unknown>;
  readonly tx: { physical: number; functional: number; prefix: number[] };
  readonly rx: { physical: number; functional: number; prefix: number[] };
  readonly extended: boolean;
}

// ISO 15765-2:2016, 10.3.2 to 10.3.5.
const cases: Record<string, Case> = {
  Normal_11bits: {
    given: { txid: 0x7e0, rxid: 0x7e8 },
    tx: { physical: 0x7e0, functional: 0x7e0, prefix: [] },
    rx: { physical: 0x7e8, functional: 0x7e8, prefix: [] },
    extended: false,
  },
  Normal_29bits: {
    given: { addressing_mode: 1, txid: 0x123456, rxid: 0x1fffffff },
    tx: { physical: 0x123456, functional: 0x123456, prefix: [] },
    rx: { physical: 0x1fffffff, functional: 0x1fffffff, prefix: [] },
    extended: true,
  },
  NormalFixed_29bits: {
    given: { addressing_mode: 2, target_address: 0x33, source_address: 0xf1 },
    tx: { physical: 0x18da33f1, functional: 0x18db33f1, prefix: [] },
    rx: { physical: 0x18daf133, functional: 0x18dbf133, prefix: [] },
    extended: true,
  },
  Extended_11bits: {
    given: { addressing_mode: "Ext11", txid: 0x600, rxid: 0x6f1, target_address: 0x12, source_address: 0xf1 },
    tx: { physical: 0x600, functional: 0x600, prefix: [0x12] },
    rx: { physical: 0x6f1, functional: 0x6f1, prefix: [0xf1] },
    extended: false,
  },
  Extended_29bits: {
    given: { addressing_mode: 4, txid: 0x60000, rxid: 0x6f100, target_address: 0x12, source_address: 0xf1 },
    tx: { physical: 0x60000, functional: 0x60000, prefix: [0x12] },
    rx: { physical: 0x6f100, functional: 0x6f100, prefix: [0xf1] },
    extended: true,
  },
  Mixed_11bits: {
    given: { addressing_mode: "mixed-11", txid: 0x701, rxid: 0x702, address_extension: 0x99 },
    tx: { physical: 0x701, functional: 0x701, prefix: [0x99] },
    rx: { physical: 0x702, functional: 0x702, prefix: [0x99] },
    extended: false,
  },
  Mixed_29bits: {
    given: { addressing_mode: 6.0, target_address: 0x33, source_address: 0xf1, address_extension: 0x99 },
    tx: { physical: 0x18ce33f1, functional: 0x18cd33f1, prefix: [0x99] },
    rx: { physical: 0x18cef133, functional: 0x18cdf133, prefix: [0x99] },
    extended: true,
  },
};

for (const [name, { given, tx, rx, extended }] of Object.entries(cases)) {
  test(`${name}: ids and address bytes`, () => {
    for (const mode of [given["addressing_mode"] ?? 0, name, name.replace("_", "").replace("bits", "")]) {
      const address = parse({ ...given, addressing_mode: mode });
      for (const [route, wanted] of [[address.tx, tx], [address.rx, rx]] as const) {
        assert.deepEqual(route.id, { physical: wanted.physical, functional: wanted.functional });
        assert.deepEqual([...route.prefix], wanted.prefix);
        assert.equal(route.extended, extended);
      } // prettier-ignore
    }
  });

  test(`${name}: a frame is for us by id, its width and the address byte`, () => {
    const { rx: route } = parse({ ...given, addressing_mode: name });
    const data = [...rx.prefix, 0x01, 0x3e];
    assert.equal(targetOf(route, frame(rx.physical, extended, data)), "physical");
    const isFixed = rx.functional !== rx.physical;
    assert.equal(targetOf(route, frame(rx.functional, extended, data)), isFixed ? "functional" : "physical");
    assert.equal(targetOf(route, frame(rx.physical, !extended, data)), undefined);
    assert.equal(targetOf(route, frame(tx.physical, extended, data)), undefined);
    if (rx.prefix.length === 0) return;
    assert.equal(targetOf(route, frame(rx.physical, extended, [0x77, 0x01, 0x3e])), undefined);
    assert.equal(targetOf(route, frame(rx.physical, extended, [])), undefined);
  });
}

test("ids of fixed addressing can be others, of which bits 28 to 16 count", () => {
  const { tx } = parse({ ...cases["NormalFixed_29bits"]?.given, physical_id: 0x14daffff, functional_id: "0x14DB0000" });
  assert.deepEqual(tx.id, { physical: 0x14da33f1, functional: 0x14db33f1 });
});

const clientForm = (more: Record<string, unknown>) => ({
  addressing_mode: 0,
  txid: null,
  rxid: null,
  target_address: null,
  source_address: null,
  physical_id: null,
  functional_id: null,
  address_extension: null,
  rx_only: false,
  tx_only: false,
  ...more,
});

test("an address for each way, as clients send it and as people write it", () => {
  const fromClient = parse({
    tx_addr: clientForm({ txid: 6, rxid: 5, tx_only: true }),
    rx_addr: clientForm({ txid: 8, rxid: 7, rx_only: true }),
  });
  const fromYaml = parse({ tx_addr: { txid: 6 }, rx_addr: { rxid: 7 } });
  assert.deepEqual(fromClient, fromYaml);
  assert.equal(fromClient.tx.id.physical, 6);
  assert.equal(fromClient.rx.id.physical, 7);
  const mixed = parse({
    tx_addr: { addressing_mode: "Mixed11", txid: 6, address_extension: 1 },
    rx_addr: { addressing_mode: "Normal29", rxid: 7 },
  });
  assert.deepEqual([mixed.tx.extended, mixed.rx.extended, mixed.rx.prefix.length], [false, true, 0]);
});

const partial = /^Cannot use a partially defined address/;
const refused: [what: string, given: unknown, text: RegExp][] = [
  ["nothing", {}, /^rxid must be specified for Normal addressing mode \(11 or 29 bits ID\)$/],
  ["no txid", { rxid: 1 }, /^txid must be specified for Normal/],
  ["equal ids", { rxid: 1, txid: 1 }, /^txid and rxid must be different for Normal addressing mode$/],
  ["an unknown mode", { addressing_mode: 7, rxid: 1, txid: 2 }, /^Addressing mode is not valid$/],
  ["an unknown name", { addressing_mode: "Normal12", rxid: 1, txid: 2 }, /^Addressing mode is not valid$/],
  ["an id of 12 bits", { rxid: 0x800, txid: 1 }, /^rxid must be smaller than 0x7FF for 11 bits identifier$/],
  ["an id of 30 bits", { addressing_mode: 1, rxid: 1, txid: 0x20000000 }, /^txid must be smaller than 0x1FFFFFFF/],
  ["a negative id", { rxid: 1, txid: -1 }, /^txid must be greater than 0$/],
  ["half an id", { rxid: 1, txid: 1.5 }, /^txid must be/],
  ["only one half", { txid: 1, tx_only: true }, partial],
  ["both halves empty", { txid: 1, rxid: 2, tx_only: true, rx_only: true }, /^Address cannot be tx only and rx only$/],
  ["fixed without source", { addressing_mode: 2, target_address: 1 }, /^target_address and source_address must be/],
  [
    "an address of 9 bits",
    { addressing_mode: 2, target_address: 256, source_address: 1 },
    /^target_address must be an integer between 0x00 and 0xFF$/,
  ],
  ["extended without target", { addressing_mode: 3, txid: 1, rxid: 2, source_address: 1 }, /^target_address and txid/],
  ["extended without source", { addressing_mode: 3, txid: 1, rxid: 2, target_address: 1 }, /^source_address and rxid/],
  ["mixed without extension", { addressing_mode: 5, txid: 1, rxid: 2 }, /^address_extension must be specified for Mixed/],
  ["mixed 29 without", { addressing_mode: 6, target_address: 1, source_address: 2 }, /address_extension must be specified/],
  ["one way missing", { tx_addr: { txid: 1 } }, partial],
  ["a sender that is none", { tx_addr: clientForm({ txid: 1, rxid: 2 }), rx_addr: { rxid: 3 } }, /^tx_addr must be configured/],
  ["a wrong part", { tx_addr: { txid: 0x800 }, rx_addr: { rxid: 3 } }, /^txid must be smaller than 0x7FF/],
  ["text", { txid: "one", rxid: 2 }, /^must be a number$/],
]; // prettier-ignore

for (const [what, given, text] of refused) {
  test(`refused: ${what}`, () => {
    const { success, error } = isoTpAddress.safeParse(given);
    assert.equal(success, false);
    assert.match(error?.issues[0]?.message ?? "", text);
  });
}
