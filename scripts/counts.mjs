// A node:test reporter that writes the runner's own closing counts as one JSON line.
export default async function* counts(source) {
  const total = {};
  for await (const event of source) {
    if (event.type !== "test:diagnostic") continue;
    const match = /^(pass|fail|cancelled|skipped|todo) (\d+)$/.exec(event.data.message);
    if (match) total[match[1]] = Number(match[2]);
  }
  yield JSON.stringify(total) + "\n";
}
