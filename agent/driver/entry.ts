/** `export:` of an ExporterConfig as the driver room takes it: one of three shapes per name. */
export type Entry = DriverEntry | CompositeEntry | ProxyEntry;

export interface DriverEntry {
  readonly type: string;
  readonly description?: string | undefined;
  /** Help text by method name, shown by the client's command line. */
  readonly methodsDescription?: Readonly<Record<string, string>> | undefined;
  readonly config?: Readonly<Record<string, unknown>> | undefined;
  readonly children?: Readonly<Record<string, Entry>> | undefined;
}

export interface CompositeEntry {
  readonly children: Readonly<Record<string, Entry>>;
  readonly description?: string | undefined;
}

export interface ProxyEntry {
  /** Dotted path of another driver, from the root. */
  readonly ref: string;
}

export function isProxyEntry(entry: Entry): entry is ProxyEntry {
  return "ref" in entry;
}

export function isDriverEntry(entry: Entry): entry is DriverEntry {
  return "type" in entry;
}

/** One thing wrong with a configuration; `path` leads from the document's root to it. */
export interface ConfigProblem {
  readonly path: readonly (string | number)[];
  readonly message: string;
  /** It is about the last key of the path itself, not about its value. */
  readonly aboutKey?: boolean;
}
