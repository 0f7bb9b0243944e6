import type { Place } from "./table.ts";

/** A script for bash: finds the place that the words before the cursor lead to, then offers what stands there. */
export function bashCompletion(program: string, places: readonly Place[]): string {
  const name = `_${program.replaceAll("-", "_")}`;
  const known = places.filter(({ words }) => words !== "").map(({ words }) => `"${words}"`);
  const offers = places.map(
    ({ words, commands, options, takesFiles }) =>
      `    "${words}") commands="${commands.map((command) => command.name).join(" ")}"; ` +
      `options="${options.map((option) => option.name).join(" ")}"; files=${takesFiles ? "1" : ""} ;;`,
  );
  const values = places.flatMap(({ words, options }) =>
    options.flatMap(({ name: option, value }) => {
      if (value === undefined) return [];
      const reply = value === "any" ? "" : value === "path" ? `-f -- "$cur"` : `-W "${value.join(" ")}" -- "$cur"`;
      const fill = reply === "" ? "" : `mapfile -t COMPREPLY < <(compgen ${reply}); `;
      return [`    "${words},${option}") ${fill}return ;;`];
    }),
  );
  return `# Completion of ${program} for bash.
${name}() {
  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD-1]} at= word commands options files
  COMPREPLY=()
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "\${at:+$at }$word" in
    ${known.join("|")}) at="\${at:+$at }$word" ;;
    esac
  done
  case "$at,$prev" in
${values.join("\n")}
  esac
  case "$at" in
${offers.join("\n")}
  esac
  if [[ $cur == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
  else
    mapfile -t COMPREPLY < <(compgen -W "$commands" -- "$cur"; [[ -z $files ]] || compgen -f -- "$cur")
  fi
}
complete -o filenames -F ${name} ${program}
`;
}
