import assert from "node:assert/strict";
import { test } from "node:test";
import { isoTpFlags, isoTpLayout } from "../../../agent/sys/isotp.ts";
import { cValues, layoutExpressions, noCompiler } from "../../sim/c-values.ts";

const headers = ["sys/socket.h", "linux/can.h", "linux/can/isotp.h"];

test("the structures of ISO-TP sockets are laid out as C lays them out", { skip: noCompiler }, (t) => {
  for (const [name, { bytes, ...members }] of Object.entries(isoTpLayout)) {
    const named = Object.fromEntries(Object.keys(members).map((member) => [member, member]));
    assert.deepEqual(
      [bytes, ...Object.values(members)],
      cValues(t, headers, layoutExpressions(`struct ${name}`, named)),
    );
  }
});

test("the flags of ISO-TP sockets are C's", { skip: noCompiler }, (t) => {
  assert.deepEqual(Object.values(isoTpFlags), cValues(t, headers, Object.keys(isoTpFlags)));
});
