/** Who wrote a log record; the names of the contract's LogSource. */
export type LogSource = "driver" | "before-lease-hook" | "after-lease-hook" | "system";
export type Severity = "DEBUG" | "INFO" | "WARNING" | "ERROR" | "CRITICAL";

export interface LogRecord {
  readonly time: Date;
  readonly severity: Severity;
  readonly message: string;
  readonly source: LogSource;
  /** Dotted name of the writer, e.g. `driver.MockPower` or `session`. */
  readonly logger: string;
  readonly driverType?: string;
  readonly operation?: string;
  readonly fields?: Readonly<Record<string, string | number | boolean>>;
}

export interface LogFields {
  operation?: string;
  [field: string]: string | number | boolean | undefined;
}

export interface Logger {
  debug(message: string, fields?: LogFields): void;
  info(message: string, fields?: LogFields): void;
  warn(message: string, fields?: LogFields): void;
  error(message: string, fields?: LogFields): void;
}

export const severities: readonly Severity[] = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"];

export interface LoggerOptions {
  source: LogSource;
  logger: string;
  driverType?: string;
  /** Records below this are not published. */
  level?: Severity;
}

/** Where all log records of one exporter meet: process log, LogStream readers and telemetry listen here. */
export class LogBus {
  /** What is true of every record now: the lease, its client and its context. Writers of logs add it. */
  context: Readonly<Record<string, string>> = {};
  readonly #listeners = new Set<(record: LogRecord) => void>();
  readonly #level: Severity;

  /** @param level of loggers that ask for none */
  constructor(level: Severity = "INFO") {
    this.#level = level;
  }

  /** @returns a function that ends the subscription. */
  subscribe(listener: (record: LogRecord) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  publish(record: LogRecord): void {
    for (const listener of this.#listeners) listener(record);
  }

  logger(options: LoggerOptions): Logger {
    const least = severities.indexOf(options.level ?? this.#level);
    const write = (severity: Severity) => {
      if (severities.indexOf(severity) < least) return () => {};
      return (message: string, { operation, ...rest }: LogFields = {}) => {
        const fields: Record<string, string | number | boolean> = {};
        for (const [key, value] of Object.entries(rest)) if (value !== undefined) fields[key] = value;
        this.publish({
          time: new Date(),
          severity,
          message,
          source: options.source,
          logger: options.logger,
          ...(options.driverType === undefined ? {} : { driverType: options.driverType }),
          ...(operation === undefined ? {} : { operation }),
          fields,
        });
      };
    };
    return { debug: write("DEBUG"), info: write("INFO"), warn: write("WARNING"), error: write("ERROR") };
  }
}
