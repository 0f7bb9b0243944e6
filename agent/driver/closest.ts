/** The candidate a mistyped word was most likely meant to be; undefined if none is near. */
export function closest(word: string, candidates: Iterable<string>): string | undefined {
  const bare = normalise(word);
  let best: { candidate: string; distance: number } | undefined;
  for (const candidate of candidates) {
    const distance = editDistance(bare, normalise(candidate));
    if (
      distance <= Math.min(3, Math.max(1, Math.floor(bare.length / 3))) &&
      (best === undefined || distance < best.distance)
    ) {
      best = { candidate, distance };
    }
  }
  return best?.candidate;
}

/** `exit_on_lease_end` is `exitOnLeaseEnd` to whoever mistypes it. */
function normalise(word: string): string {
  return word.toLowerCase().replace(/[^a-z0-9]/g, "");
}

/** Levenshtein distance, one row at a time. Words longer than 100 characters are cut. */
function editDistance(from: string, to: string): number {
  const [a, b] = [from.slice(0, 100), to.slice(0, 100)];
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const substituted = (row[j - 1] as number) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(substituted, (row[j] as number) + 1, (next[j - 1] as number) + 1));
    }
    row = next;
  }
  return row[b.length] as number;
}
