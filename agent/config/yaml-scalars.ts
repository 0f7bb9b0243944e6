import type { ScalarTag } from "yaml";

/**
 * How the Python exporter reads plain scalars: YAML 1.1 as PyYAML knows it. `on` is true, `0644` is octal,
 * `1e3` and `0o17` are strings. Two surprises of PyYAML are left out: `52:54:00:12:34:56` is not a number in
 * base 60, and `2024-01-02` is not a date; both stay the strings they were meant to be.
 */
export const plainScalars: ScalarTag[] = [
  scalar("null", /^(?:~|null|Null|NULL|)$/, () => null),
  scalar("bool", /^(?:yes|Yes|YES|on|On|ON|true|True|TRUE)$/, () => true),
  scalar("bool", /^(?:no|No|NO|off|Off|OFF|false|False|FALSE)$/, () => false),
  scalar("int", /^[-+]?0b[01_]+$/, (text) => integer(text, 2)),
  scalar("int", /^[-+]?0x[\da-fA-F_]+$/, (text) => integer(text, 16)),
  scalar("int", /^[-+]?0[0-7_]+$/, (text) => integer(text, 8)),
  scalar("int", /^[-+]?(?:0|[1-9][\d_]*)$/, (text) => integer(text, 10)),
  scalar("float", /^[-+]?(?:\d[\d_]*\.[\d_]*|\.\d[\d_]*)(?:[eE][-+]\d+)?$/, (text) => Number(text.replaceAll("_", ""))),
  scalar("float", /^[-+]?\.(?:inf|Inf|INF)$/, (text) => (text.startsWith("-") ? -Infinity : Infinity)),
  scalar("float", /^\.(?:nan|NaN|NAN)$/, () => NaN),
];

function scalar(name: string, test: RegExp, resolve: (text: string) => unknown): ScalarTag {
  return { tag: `tag:yaml.org,2002:${name}`, default: true, test, resolve };
}

function integer(text: string, base: 2 | 8 | 10 | 16): number {
  const digits = text.replaceAll("_", "").replace(/^[-+]/, "");
  const value = Number.parseInt(base === 2 || base === 16 ? digits.slice(2) : digits, base);
  return text.startsWith("-") ? -value : value;
}
