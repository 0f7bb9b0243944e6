import assert from "node:assert/strict";
import { test } from "node:test";
import type * as z from "zod";
import { inputConfig, outputConfig, pinOutputConfig, powerConfig } from "../../../../boards/gpio/config.ts";
import { lineOfPin } from "../../../../boards/gpio/pins.ts";

function refusal(schema: z.ZodType, config: unknown): string {
  const { success, error } = schema.safeParse(config);
  assert.ok(!success, "it is taken");
  return error.issues.map(({ message }) => message).join("; ");
}

test("what the Python exporter takes is taken, and what is not said is as there", () => {
  assert.deepEqual(outputConfig.parse({ line: 3 }), {
    ...{ line: 3, active_low: false, bias: "as_is", drive: "push_pull", keep: false, initial_value: false },
  });
  assert.equal(inputConfig.parse({ line: "17", bias: null, drive: "open_drain" }).line, 17);
  assert.equal(inputConfig.parse({ line: "BOOT_BTN" }).line, "BOOT_BTN");
  assert.equal(powerConfig.parse({ line: 0, mode: "push_pull", device: 1 }).device, 1);
  for (const word of ["active", "on", true]) {
    assert.equal(outputConfig.parse({ line: 0, initial_value: word }).initial_value, true);
  }
  for (const word of ["inactive", "off", false, null]) {
    assert.equal(outputConfig.parse({ line: 0, initial_value: word }).initial_value, false);
  }
});

test("what cannot be meant is refused in the words of the Python exporter", () => {
  assert.equal(
    refusal(outputConfig, { line: 0, drive: "hard" }),
    "Invalid drive: hard, must be one of: open_drain, push_pull, open_source",
  );
  assert.equal(
    refusal(inputConfig, { line: 0, bias: "up" }),
    "Invalid bias: up, must be one of: as_is, pull_up, pull_down, disabled",
  );
  assert.match(
    refusal(outputConfig, { line: 0, initial_value: "high" }),
    /^Invalid initial_value: high, must be one of: /,
  );
  assert.notEqual(refusal(outputConfig, {}), "");
  assert.notEqual(refusal(outputConfig, { line: -1 }), "");
  assert.match(refusal(outputConfig, { line: 0, polarity: 1 }), /polarity/);
});

test("pins of a Raspberry Pi in every form", () => {
  for (const pin of [17, "17", "GPIO17", "gpio17", "BCM17", "BOARD11", "J8:11", "WPI0"]) {
    assert.equal(lineOfPin(pin), 17, `${pin}`);
  }
  assert.deepEqual([lineOfPin("J8:40"), lineOfPin("WPI31"), lineOfPin("BOARD3")], [21, 1, 2]);
  for (const pin of ["BOARD1", "BOARD6", "J8:41", "WPI17", "P17", "GPIO", "", "17 "]) {
    assert.equal(lineOfPin(pin), undefined, pin);
  }
  // Every line of the header is reached once, whichever way.
  const lines = (form: string) =>
    Array.from({ length: 60 }, (_, number) => lineOfPin(`${form}${number}`)).filter((line) => line !== undefined);
  const all = Array.from({ length: 28 }, (_, line) => line);
  for (const form of ["BOARD", "WPI"])
    assert.deepEqual(
      lines(form).sort((a, b) => a - b),
      all,
      form,
    );
});

test("a pin has no initial value unless it is given one", () => {
  assert.equal(pinOutputConfig.parse({ pin: "BOARD11" }).initial_value, undefined);
  assert.equal(pinOutputConfig.parse({ pin: "BOARD11", initial_value: "off" }).initial_value, false);
  assert.match(refusal(pinOutputConfig, { pin: "BOARD1" }), /^is no GPIO pin: BOARD1; forms are /);
});
