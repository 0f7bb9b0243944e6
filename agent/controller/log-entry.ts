import type { LogEntry } from "../../proto/gen/jumpstarter/v1/telemetry.ts";
import type { LogRecord } from "../driver/log.ts";

/** What the service keeps of the fields that it has no column for. */
const mostExtraFields = 16;
const longestKey = 64;
const longestValue = 256;

/** A driver may log a whole dump; a batch of such lines must still be a message that gRPC takes. */
const longestMessage = 16 * 1024;

type Column = "exporter" | "lease" | "client" | "operation" | "result" | "driverType";

/** The fields that have a column, by the names that contexts and log calls give them. */
const columns: ReadonlyMap<string, Column> = new Map([
  ["exporter", "exporter"],
  ["lease", "lease"],
  ["lease_id", "lease"],
  ["client", "client"],
  ["operation", "operation"],
  ["result", "result"],
  ["driver_type", "driverType"],
]);

/** @param context what is true of every record now; the record's own fields count more */
export function logEntry(record: LogRecord, exporter: string, context: Readonly<Record<string, string>>): LogEntry {
  const entry: LogEntry = {
    ...{
      timestamp: record.time,
      severity: record.severity.toLowerCase(),
      message: cut(record.message, longestMessage),
    },
    ...{ component: "exporter", exporter, lease: "", client: "", operation: "", result: "", driverType: "" },
    // The service takes the namespace from the token.
    namespace: "",
    extraFields: {},
  };
  const extra = new Map<string, string>();
  const own = { driver_type: record.driverType, operation: record.operation };
  for (const fields of [context, record.fields ?? {}, own]) {
    for (const [key, value] of Object.entries(fields)) {
      if (value === undefined) continue;
      const column = columns.get(key);
      const short = key.slice(0, longestKey);
      if (column !== undefined) entry[column] = String(value);
      else if (extra.has(short) || extra.size < mostExtraFields) extra.set(short, cut(String(value), longestValue));
    }
  }
  entry.extraFields = Object.fromEntries(extra);
  return entry;
}

/** Never within a character. */
function cut(text: string, length: number): string {
  if (text.length <= length) return text;
  const end = /[\ud800-\udbff]/.test(text.charAt(length - 1)) ? length - 1 : length;
  return text.slice(0, end);
}
