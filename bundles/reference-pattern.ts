import { AgentError } from "../agent/driver/errors.ts";
import { formatReference, parseReference, type Reference } from "./oci/reference.ts";

/**
 * Compiles an entry of an allow-list. It is a complete reference, or one that ends with `/*` (all below a namespace or
 * directory) or `:*` (all tags). A star elsewhere is refused: `quay.io/lab*` would also allow `quay.io/labor`, and
 * `quay.io*` a host that begins that way.
 * @throws AgentError E_INVALID
 */
export function compileReferencePattern(pattern: string): (reference: Reference) => boolean {
  if (!pattern.includes("*")) return exactly(parseReference(pattern));
  const start = pattern.slice(0, -1);
  if (!/^[^*]+[/:]\*$/.test(pattern) || start === "file:" || start === "oci-layout:") {
    throw new AgentError("E_INVALID", `${JSON.stringify(pattern)}: a * stands only at the end, after a / or a tag's :`);
  }
  // As references are written out; what is added last is the only x that can follow the start.
  const sample = formatReference(parseReference(`${start}x`));
  const beginning = sample.slice(0, sample.lastIndexOf("x"));
  return (reference) => formatReference(reference).startsWith(beginning);
}

/** The same image: what pins a digest is met by that digest under any tag, and what does not by no pin. */
function exactly(allowed: Reference): (reference: Reference) => boolean {
  const pinned = allowed.kind === "file" ? undefined : allowed.digest;
  return (reference) => {
    if (reference.kind === "file" || allowed.kind === "file" || pinned === undefined) {
      return formatReference(reference) === formatReference(allowed);
    }
    return reference.digest === pinned && placeOf(reference) === placeOf(allowed);
  };
}

function placeOf(reference: Exclude<Reference, { kind: "file" }>): string {
  return reference.kind === "registry" ? `${reference.host}/${reference.repository}` : reference.directory;
}
