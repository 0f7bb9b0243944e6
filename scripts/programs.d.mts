/** Programs (names or paths) that are not on this machine; without an argument, of all that tests use. */
export function missingPrograms(programs?: readonly string[]): string[];
