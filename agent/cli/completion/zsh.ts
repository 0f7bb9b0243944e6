import type { Place } from "./table.ts";

/** A script for zsh, as bash's: what `_describe` shows has its help beside it. */
export function zshCompletion(program: string, places: readonly Place[]): string {
  const name = `_${program.replaceAll("-", "_")}`;
  const known = places.filter(({ words }) => words !== "").map(({ words }) => `"${words}"`);
  const offers = places.map(({ words, commands, options, takesFiles }) =>
    [
      `    "${words}")`,
      `      commands=(${commands.map(described).join(" ")})`,
      `      options=(${options.map(described).join(" ")})`,
      `      files=${takesFiles ? "1" : ""} ;;`,
    ].join("\n"),
  );
  const values = places.flatMap(({ words, options }) =>
    options.flatMap(({ name: option, value }) => {
      if (value === undefined) return [];
      const reply = value === "any" ? "" : value === "path" ? "_files; " : `compadd -- ${value.join(" ")}; `;
      return [`    "${words},${option}") ${reply}return ;;`];
    }),
  );
  return `#compdef ${program}
# Completion of ${program} for zsh.
${name}() {
  local at= word files
  local -a commands options
  for word in "\${(@)words[2,CURRENT-1]}"; do
    case "\${at:+$at }$word" in
    ${known.join("|")}) at="\${at:+$at }$word" ;;
    esac
  done
  case "$at,\${words[CURRENT-1]}" in
${values.join("\n")}
  esac
  case "$at" in
${offers.join("\n")}
  esac
  if [[ $PREFIX == -* ]]; then
    _describe option options
  else
    (( \${#commands} )) && _describe command commands
    [[ -z $files ]] || _files
  fi
}
# Read by compinit it is the function's own text, read by a user's start file it names the function.
if [[ \${funcstack[1]} == ${name} ]]; then ${name} "$@"; else compdef ${name} ${program}; fi
`;
}

function described({ name, help }: { readonly name: string; readonly help: string }): string {
  return quoted(`${name}:${help.replaceAll(":", "\\:")}`);
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
