/** Counts, and tells them in the text format 0.0.4 of Prometheus. Counting is a look into a map and an addition. */

export type MetricKind = "counter" | "gauge" | "histogram";

export interface Declared {
  readonly name: string;
  readonly kind: MetricKind;
  readonly help: string;
  readonly labels: readonly string[];
}

/** What clients name must not fill the memory: series beyond these are added up in one whose labels are `other`. */
const mostSeries = 2_000;

/** Numbers of one name, by the values of its labels. */
abstract class Metric<Value> implements Declared {
  abstract readonly kind: MetricKind;
  readonly name: string;
  readonly help: string;
  readonly labels: readonly string[];
  protected readonly series = new Map<string, { readonly labels: string; value: Value }>();

  constructor(name: string, help: string, labels: readonly string[] = []) {
    this.name = name;
    this.help = help;
    this.labels = labels;
  }

  protected at(values: readonly string[]): { readonly labels: string; value: Value } {
    const key = values.join("\0");
    const known = this.series.get(key);
    if (known !== undefined) return known;
    if (this.series.size >= mostSeries && values[0] !== "other") return this.at(this.labels.map(() => "other"));
    const labels = this.labels.map((label, index) => `${label}="${escapeValue(values[index] ?? "")}"`).join(",");
    const made = { labels, value: this.nothing() };
    this.series.set(key, made);
    return made;
  }

  /** What a series begins with. */
  protected abstract nothing(): Value;
  protected abstract samples(): string[];

  /** Its lines; none while there is nothing to tell. */
  text(): string {
    if (this.series.size === 0) return "";
    const help = this.help.replaceAll("\\", "\\\\").replaceAll("\n", "\\n");
    return [`# HELP ${this.name} ${help}`, `# TYPE ${this.name} ${this.kind}`, ...this.samples(), ""].join("\n");
  }
}

/** A counter or a gauge. */
export class Numbers extends Metric<number> {
  readonly kind: MetricKind;

  constructor(kind: "counter" | "gauge", name: string, help: string, labels: readonly string[]) {
    super(name, help, labels);
    this.kind = kind;
  }

  add(count: number, ...labels: readonly string[]): void {
    this.at(labels).value += count;
  }

  /** Also of a counter, where something else counts. */
  set(value: number, ...labels: readonly string[]): void {
    this.at(labels).value = value;
  }

  /** For what is told anew each time. */
  clear(): void {
    this.series.clear();
  }

  protected nothing(): number {
    return 0;
  }

  protected samples(): string[] {
    return [...this.series.values()].map(({ labels, value }) => sample(this.name, labels, value));
  }
}

interface Distribution {
  /** One for each bucket, without those below it. */
  readonly counts: number[];
  sum: number;
  count: number;
}

export class Histogram extends Metric<Distribution> {
  readonly kind = "histogram";
  readonly #bounds: readonly number[];

  constructor(name: string, help: string, labels: readonly string[], bounds: readonly number[]) {
    super(name, help, labels);
    this.#bounds = bounds;
  }

  observe(value: number, ...labels: readonly string[]): void {
    const { value: found } = this.at(labels);
    const bucket = this.#bounds.findIndex((bound) => value <= bound);
    if (bucket !== -1) found.counts[bucket] = (found.counts[bucket] ?? 0) + 1;
    found.sum += value;
    found.count += 1;
  }

  protected nothing(): Distribution {
    return { counts: this.#bounds.map(() => 0), sum: 0, count: 0 };
  }

  protected samples(): string[] {
    return [...this.series.values()].flatMap(({ labels, value: { counts, sum, count } }) => {
      const within = labels === "" ? "" : `${labels},`;
      let below = 0;
      const buckets = this.#bounds.map((bound, index) => {
        below += counts[index] ?? 0;
        return sample(`${this.name}_bucket`, `${within}le="${bound}"`, below);
      });
      return [
        ...buckets,
        sample(`${this.name}_bucket`, `${within}le="+Inf"`, count),
        sample(`${this.name}_sum`, labels, sum),
        sample(`${this.name}_count`, labels, count),
      ];
    });
  }
}

/** All that an agent counts. */
export class Registry {
  readonly #metrics: (Numbers | Histogram)[] = [];
  readonly #collectors: (() => void | Promise<void>)[] = [];

  get declared(): readonly Declared[] {
    return this.#metrics;
  }

  counter(name: string, help: string, ...labels: readonly string[]): Numbers {
    return this.#declare(new Numbers("counter", name, help, labels));
  }

  gauge(name: string, help: string, ...labels: readonly string[]): Numbers {
    return this.#declare(new Numbers("gauge", name, help, labels));
  }

  histogram(name: string, help: string, bounds: readonly number[], ...labels: readonly string[]): Histogram {
    return this.#declare(new Histogram(name, help, labels, bounds));
  }

  /** Called before each telling, for what need not be counted all the time. */
  collect(collector: () => void | Promise<void>): void {
    this.#collectors.push(collector);
  }

  async text(): Promise<string> {
    for (const collector of this.#collectors) await collector();
    return this.#metrics.map((metric) => metric.text()).join("");
  }

  #declare<M extends Numbers | Histogram>(metric: M): M {
    this.#metrics.push(metric);
    return metric;
  }
}

function sample(name: string, labels: string, value: number): string {
  const told = Number.isFinite(value) ? String(value) : Number.isNaN(value) ? "NaN" : value > 0 ? "+Inf" : "-Inf";
  return labels === "" ? `${name} ${told}` : `${name}{${labels}} ${told}`;
}

function escapeValue(text: string): string {
  return text.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
}
