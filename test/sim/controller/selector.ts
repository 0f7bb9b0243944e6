/** A Kubernetes label selector: all of its requirements must hold. */
export interface Selector {
  readonly requirements: readonly Requirement[];
  matches(labels: Readonly<Record<string, string>>): boolean;
  /** The form in which the controller gives it back to clients. */
  toString(): string;
}

interface Requirement {
  readonly key: string;
  readonly operator: "in" | "notin" | "exists" | "absent";
  readonly values: readonly string[];
  readonly plain: boolean;
}

/** Parses `a=b,c!=d,e in (f,g),h notin (i),j,!k`; throws on anything else. */
export function parseSelector(text: string): Selector {
  const requirements = splitOutsideParentheses(text)
    .map((part) => part.trim())
    .filter((part) => part !== "")
    .map(parseRequirement);
  return {
    requirements,
    matches: (labels) => requirements.every((requirement) => holds(requirement, labels)),
    toString: () => requirements.map(formatRequirement).sort().join(","),
  };
}

function parseRequirement(part: string): Requirement {
  const set = /^(\S+)\s+(in|notin)\s+\(([^()]*)\)$/.exec(part);
  if (set) {
    const values = (set[3] ?? "").split(",").map((value) => value.trim());
    return { key: set[1] ?? "", operator: set[2] as "in" | "notin", values, plain: false };
  }
  const compared = /^([^\s=!]+)\s*(!=|==|=)\s*([^\s=!]*)$/.exec(part);
  if (compared) {
    const operator = compared[2] === "!=" ? "notin" : "in";
    return { key: compared[1] ?? "", operator, values: [compared[3] ?? ""], plain: operator === "in" };
  }
  const present = /^(!?)\s*([^\s=!(),]+)$/.exec(part);
  if (!present) throw new Error(`failed to parse label selector: unable to parse requirement: ${part}`);
  return { key: present[2] ?? "", operator: present[1] === "!" ? "absent" : "exists", values: [], plain: false };
}

function holds({ key, operator, values }: Requirement, labels: Readonly<Record<string, string>>): boolean {
  const value = labels[key];
  switch (operator) {
    case "in":
      return value !== undefined && values.includes(value);
    case "notin":
      return value === undefined || !values.includes(value);
    case "exists":
      return value !== undefined;
    case "absent":
      return value === undefined;
  }
}

function formatRequirement({ key, operator, values, plain }: Requirement): string {
  if (plain) return `${key}=${values[0] ?? ""}`;
  if (operator === "exists") return key;
  if (operator === "absent") return `!${key}`;
  return `${key} ${operator} (${values.join(",")})`;
}

function splitOutsideParentheses(text: string): string[] {
  const parts: string[] = [];
  let depth = 0;
  let part = "";
  for (const character of text) {
    if (character === "(") depth++;
    if (character === ")") depth--;
    if (character === "," && depth === 0) {
      parts.push(part);
      part = "";
    } else part += character;
  }
  return [...parts, part];
}
