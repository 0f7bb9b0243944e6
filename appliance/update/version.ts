/**
 * Compares versions as systemd does (UAPI.10 Version Format Specification, uapi-group.org/specifications/specs/version_format_specification),
 * which is what IMAGE_VERSION of os-release(5) is compared by. Pure.
 * @returns below 0 if `a` is older than `b`, 0 if neither is, above 0 if it is newer
 */
export function compareVersions(a: string, b: string): number {
  let [left, right] = [a, b];
  for (;;) {
    // Whatever else there is separates.
    left = left.replace(/^[^A-Za-z0-9~.^-]+/, "");
    right = right.replace(/^[^A-Za-z0-9~.^-]+/, "");
    // Before the end: 1.0~rc1 is older than 1.0.
    if (left.startsWith("~") || right.startsWith("~")) {
      const verdict = Number(right.startsWith("~")) - Number(left.startsWith("~"));
      if (verdict !== 0) return verdict;
      [left, right] = [left.slice(1), right.slice(1)];
    }
    if (left === "" || right === "") return Math.sign(left.length - right.length);
    for (const mark of ["-", "^", "."]) {
      const [atLeft, atRight] = [left.startsWith(mark), right.startsWith(mark)];
      if (!atLeft && !atRight) continue;
      if (atLeft !== atRight) return Number(atRight) - Number(atLeft);
      [left, right] = [left.slice(1), right.slice(1)];
    }
    const isNumber = /^[0-9]/.test(left) || /^[0-9]/.test(right);
    const pattern = isNumber ? /^[0-9]*/ : /^[A-Za-z]*/;
    const [one, other] = [pattern.exec(left)?.[0] ?? "", pattern.exec(right)?.[0] ?? ""];
    const verdict = isNumber ? compareNumbers(one, other) : compareText(one, other);
    if (verdict !== 0) return verdict;
    [left, right] = [left.slice(one.length), right.slice(other.length)];
  }
}

/** Of any length. */
function compareNumbers(a: string, b: string): number {
  const [left, right] = [a.replace(/^0+/, ""), b.replace(/^0+/, "")];
  return Math.sign(left.length - right.length) || compareText(left, right);
}

const compareText = (a: string, b: string) => (a < b ? -1 : a > b ? 1 : 0);
