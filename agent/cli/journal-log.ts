import type { LogRecord, Severity } from "../driver/log.ts";
import { toAgentError } from "../driver/errors.ts";
import { fieldName, leadsToJournal, openJournal, type Journal, type JournalEntry } from "../sys/journal.ts";

/** syslog(3) */
const priorities: Record<Severity, number> = { DEBUG: 7, INFO: 6, WARNING: 4, ERROR: 3, CRITICAL: 2 };

/** Names that people ask the journal for; any other key keeps its own. */
const names: Readonly<Record<string, string>> = { lease_id: "LEASE" };

/** The journal, if standard output leads there; undefined too where its protocol cannot be spoken. */
export async function journalOfOutput(env: NodeJS.ProcessEnv = process.env): Promise<Journal | undefined> {
  if (!leadsToJournal(1, env)) return undefined;
  try {
    return await openJournal();
  } catch (error) {
    process.stderr.write(`<4>the journal gets lines without fields: ${toAgentError(error).message}\n`);
    return undefined;
  }
}

/** @param context what is true of the exporter now: its lease, its client, and what the controller says of them */
export function journalEntry(
  record: LogRecord,
  exporter: string | undefined,
  context: Readonly<Record<string, string>>,
): JournalEntry {
  const { severity, message, logger, operation, driverType, fields } = record;
  const entry: Record<string, string | number | boolean> = {};
  for (const [key, value] of Object.entries({ ...context, ...fields })) {
    const name = names[key] ?? fieldName(key);
    if (name !== undefined) entry[name] = value;
  }
  const who = exporter === undefined ? logger : `${exporter} ${logger}`;
  const during = operation === undefined ? "" : ` (${operation})`;
  return {
    // Others have chosen these keys, and ours come after them: what a line says of itself is our word.
    ...entry,
    MESSAGE: `${who}: ${message}${during}`,
    PRIORITY: priorities[severity],
    SYSLOG_IDENTIFIER: "jmp-agent",
    LOGGER: logger,
    ...(exporter === undefined ? {} : { EXPORTER: exporter }),
    ...(operation === undefined ? {} : { OPERATION: operation }),
    ...(driverType === undefined ? {} : { DRIVER: driverType }),
  };
}
