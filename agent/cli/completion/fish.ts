import type { OptionRow, Place } from "./table.ts";

/** A script for fish: one line for each word and option, with the place where it holds. */
export function fishCompletion(program: string, places: readonly Place[]): string {
  const at = `__${program.replaceAll("-", "_")}_at`;
  const known = places.filter(({ words }) => words !== "").map(({ words }) => quoted(words));
  const lines = places.flatMap(({ words, commands, options, takesFiles }) => {
    const here = `complete -c ${program} -n ${quoted(`${at} ${quoted(words)}`)}`;
    return [
      ...(takesFiles ? [`${here} -F`] : []),
      ...commands.map(({ name, help }) => `${here} -a ${name} -d ${quoted(help)}`),
      ...options.map((option) => `${here} -l ${option.name.slice(2)} -d ${quoted(option.help)}${valueOf(option)}`),
    ];
  });
  return `# Completion of ${program} for fish.
function ${at} --description 'Whether the words before the cursor lead to this place'
  set -l at
  for word in (commandline -opc)[2..]
    set -l next (string trim -- "$at $word")
    contains -- $next ${known.join(" ")}; and set at $next
  end
  test "$at" = "$argv[1]"
end
complete -c ${program} -f
${lines.join("\n")}
`;
}

function valueOf({ value }: OptionRow): string {
  if (value === undefined) return "";
  if (value === "path") return " -r -F";
  return value === "any" ? " -x" : ` -x -a ${quoted(value.join(" "))}`;
}

function quoted(text: string): string {
  return `'${text.replaceAll("\\", "\\\\").replaceAll("'", "\\'")}'`;
}
