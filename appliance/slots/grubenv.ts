/**
 * GRUB's environment block: variables in a file whose length never changes, so that a boot loader that cannot allocate space can write it.
 * grub-core/lib/envblk.c and the manual's section "GRUB environment block". Pure.
 */
import { AgentError } from "../../agent/driver/errors.ts";

/** Of the whole file; GRUB's own tools make no others. */
export const environmentBytes = 1024;

const mark = "# GRUB Environment Block\n";
const names = /^[A-Za-z_][A-Za-z0-9_]*$/;

/**
 * Reads the variables as GRUB does. Text is Latin-1: each byte is a character.
 * @throws AgentError E_INVALID unless it is a whole environment block
 */
export function readEnvironment(bytes: Uint8Array): Map<string, string> {
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("latin1");
  if (text.length !== environmentBytes) {
    throw new AgentError("E_INVALID", `an environment block of GRUB has ${environmentBytes} bytes, not ${text.length}`);
  }
  if (!text.startsWith(mark)) throw new AgentError("E_INVALID", "this is no environment block of GRUB");
  const variables = new Map<string, string>();
  for (let at = mark.length; at < text.length;) {
    if (text[at] === "#") {
      const end = text.indexOf("\n", at);
      at = end === -1 ? text.length : end + 1;
      continue;
    }
    const equals = text.indexOf("=", at);
    if (equals === -1) break;
    let value = "";
    let next = equals + 1;
    for (; next < text.length && text[next] !== "\n"; next += 1) {
      // What follows a backslash is meant as it is.
      if (text[next] === "\\") next += 1;
      value += text[next] ?? "";
    }
    // A value without an end is none.
    if (next >= text.length) break;
    variables.set(text.slice(at, equals), value);
    at = next + 1;
  }
  return variables;
}

/**
 * The block with these variables, filled up with `#` as GRUB does.
 * @throws AgentError E_INVALID for a name or a character that it cannot hold, E_LIMIT if they do not fit
 */
export function writeEnvironment(variables: ReadonlyMap<string, string>): Buffer {
  let text = mark;
  for (const [name, value] of variables) {
    if (!names.test(name)) throw new AgentError("E_INVALID", `GRUB has no variables called ${JSON.stringify(name)}`);
    if ([...value].some((letter) => letter > "\xff"))
      throw new AgentError("E_INVALID", `the value of ${name} is not Latin-1`);
    text += `${name}=${value.replaceAll(/[\\\n]/g, "\\$&")}\n`;
  }
  if (text.length > environmentBytes) {
    throw new AgentError("E_LIMIT", `the variables take ${text.length} of ${environmentBytes} bytes`);
  }
  return Buffer.from(text.padEnd(environmentBytes, "#"), "latin1");
}
