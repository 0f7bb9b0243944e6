import { listRecords, recordOnDisk, type PastRecord } from "../../boards/serial/record/past.ts";
import { searchedRecordDirectories } from "../../boards/serial/record/place.ts";
import { AgentError } from "../driver/errors.ts";
import { defineCommand, table } from "./command.ts";
import { printLog } from "./console-log.ts";
import { listenForStop } from "./signals.ts";

export const consoleLog = defineCommand({
  name: "console",
  summary: "Print what the agents of this host have recorded of serial consoles, whether one runs now or not.",
  words: { usage: "[EXPORTER] [DRIVER]", least: 0, most: 2 },
  options: {
    follow: { type: "boolean", help: "go on with what comes, until Ctrl-C" },
    lines: { type: "string", value: "N", help: "only so many of the last lines" },
    since: { type: "string", value: "TIME", help: "only what came since: 30s, 10m, 2h, 1d, or a time in RFC 3339" },
    grep: { type: "string", value: "REGEX", help: "only lines that match" },
    boots: { type: "boolean", help: "only power and boot times" },
    json: { type: "boolean", help: "a line of JSON for each line" },
    raw: { type: "boolean", help: "the exact bytes, without times and marks" },
    directory: { type: "string", value: "DIR", help: "where record.directory says (in the state directory)" },
  },
  notes: `
Without words it lists what is recorded; DRIVER is needed only where an exporter has several consoles. Consoles are
recorded where the configuration of their driver says "record: true".

Examples:
  jmp-agent console
  jmp-agent console board-7 --follow
  jmp-agent console board-7 serial --since 10m --grep 'panic|oops'`,

  async run({ directory, since, follow, boots, json, raw, grep, lines }, [exporter, driver]) {
    const directories = directory === undefined ? searchedRecordDirectories() : [directory];
    const all = (await Promise.all(directories.map(listRecords))).flat();
    if (exporter === undefined) return list(all, directories);
    const { folder } = choose(all, exporter, driver, directories);
    if (lines !== undefined && !/^\d{1,6}$/.test(lines))
      throw new AgentError("E_USAGE", "--lines takes a whole number");
    const stop = listenForStop((exitCode) => process.exit(exitCode));
    const words = { follow: follow === true, boots: boots === true, json: json === true, raw: raw === true, grep };
    await printLog(
      recordOnDisk(folder, since, stop.signal),
      { ...words, lines: lines === undefined ? undefined : Number(lines) },
      stop.signal,
    );
    return 0;
  },
});

function list(records: readonly PastRecord[], directories: readonly string[]): number {
  if (records.length === 0) throw nothing(`nothing is recorded in ${directories.join(" or ")}`);
  const width = Math.max(...records.map(({ exporter }) => exporter.length));
  const rows = records.map(({ exporter, driver, bytes }) => [exporter, `${driver}  ${size(bytes)}`] as const);
  process.stdout.write(`${table(rows, width)}\n`);
  return 0;
}

function choose(
  records: readonly PastRecord[],
  exporter: string,
  driver: string | undefined,
  directories: readonly string[],
): PastRecord {
  const ofExporter = records.filter((record) => record.exporter === exporter);
  const found = ofExporter.filter((record) => driver === undefined || record.driver === driver);
  const [only] = found;
  if (only === undefined) {
    const what = driver === undefined || ofExporter.length === 0 ? exporter : `${driver} of ${exporter}`;
    throw nothing(`nothing is recorded of ${what} in ${directories.join(" or ")}`);
  }
  if (found.length === 1) return only;
  const drivers = found.map((record) => record.driver).join(", ");
  throw new AgentError("E_USAGE", `${exporter} has several consoles, name one of them: ${drivers}`);
}

function nothing(message: string): AgentError {
  return new AgentError("E_IO", message, {
    hint: 'consoles are recorded where the configuration of their driver says "record: true"; --directory looks elsewhere',
  });
}

function size(bytes: number): string {
  return bytes < 1024 * 1024 ? `${Math.ceil(bytes / 1024)} KiB` : `${(bytes / 1024 / 1024).toFixed(1)} MiB`;
}
