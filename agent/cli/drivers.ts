import * as z from "zod";
import { shippedDrivers } from "../driver/catalog.ts";
import { closest } from "../driver/closest.ts";
import type { AnyDriver } from "../driver/driver.ts";
import { AgentError, toAgentError } from "../driver/errors.ts";
import type { Method } from "../driver/interface.ts";
import { commonConfig, ownConfig } from "../driver/plan.ts";
import { defineCommand, table } from "./command.ts";

type Schema = z.core.JSONSchema.BaseSchema;

/** What `--json` prints for one driver. */
export interface Description {
  readonly type: string;
  /** Every type string that selects it. */
  readonly types: readonly string[];
  readonly summary: string;
  /** Import path of the Python client class. */
  readonly client: string;
  readonly config: Schema;
  readonly methods: readonly MethodDescription[];
}

interface MethodDescription {
  readonly name: string;
  readonly kind: Method["kind"];
  readonly help?: string;
  /** Positional arguments. */
  readonly args?: readonly Schema[];
  /** Of any further arguments. */
  readonly rest?: Schema;
  /** Of a unary method. */
  readonly result?: Schema;
  /** Of each item of a streaming method. */
  readonly item?: Schema;
}

export const drivers = defineCommand({
  name: "drivers",
  summary: "List the drivers that a configuration can name, or describe one.",
  words: { usage: "[TYPE]", least: 0, most: 1 },
  options: {
    json: { type: "boolean", help: "print JSON, configs and arguments as JSON Schema" },
  },

  async run({ json }, [type]) {
    if (type !== undefined) {
      const description = await describe(type);
      print(json ? JSON.stringify(description, undefined, 2) : asText(description));
      return 0;
    }
    const types = shippedDrivers.types();
    if (json) {
      print(JSON.stringify(await Promise.all(types.map(describe)), undefined, 2));
      return 0;
    }
    const lines = await Promise.all(types.map(async (name) => [name, (await load(name)).summary] as const));
    print(table(lines, Math.max(...types.map((name) => name.length))));
    return 0;
  },
});

function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

async function load(type: string): Promise<AnyDriver> {
  const loading = shippedDrivers.load(type);
  if (loading === undefined) {
    const types = shippedDrivers.types();
    // Most people remember the class, not the package it is in.
    const meant = types.findLast((name) => name.endsWith(`.${type}`)) ?? closest(type, types);
    throw new AgentError("E_FAILED", `there is no driver ${type}`, {
      hint: meant === undefined ? "'jmp-agent drivers' lists all of them" : `did you mean ${meant}?`,
    });
  }
  try {
    return await loading;
  } catch (thrown) {
    throw new AgentError("E_FAILED", `${type} cannot be loaded: ${toAgentError(thrown).message}`, { cause: thrown });
  }
}

/** @throws AgentError E_FAILED if there is no such driver */
export async function describe(type: string): Promise<Description> {
  const driver = await load(type);
  return {
    type,
    types: driver.types,
    summary: driver.summary,
    client: driver.implements.client,
    config: configSchema(driver),
    methods: Object.entries(driver.implements.methods).map(([name, method]) => describeMethod(name, method)),
  };
}

/** What may stand in the entry's `config`: the driver's own keys and those of all drivers. */
function configSchema(driver: AnyDriver): Schema {
  const own = schemaOf(ownConfig(driver));
  return own.type === "object"
    ? { ...own, properties: { ...own.properties, ...schemaOf(commonConfig).properties } }
    : own;
}

function describeMethod(name: string, method: Method): MethodDescription {
  const { kind, help } = method;
  const base = { name, kind, ...(help === undefined ? {} : { help }) };
  if (method.kind === "stream") return base;
  return {
    ...base,
    args: method.args.map(schemaOf),
    ...(method.rest === undefined ? {} : { rest: schemaOf(method.rest) }),
    ...(method.kind === "unary" ? { result: schemaOf(method.result) } : { item: schemaOf(method.item) }),
  };
}

/** What a configuration or a caller may write; checks that JSON Schema has no words for are left out. */
function schemaOf(schema: z.ZodType): Schema {
  const { $schema: _, ...own } = z.toJSONSchema(schema, { io: "input", unrepresentable: "any" });
  return own;
}

function asText({ type, types, summary, client, config, methods }: Description): string {
  const others = types.filter((other) => other !== type);
  const required = config.required ?? [];
  const keys = Object.entries(config.properties ?? {}).map(([key, schema]): [string, string] => {
    const property = schema as Schema;
    const remarks = [
      typeOf(property),
      ...(required.includes(key) ? ["required"] : []),
      ...(property.default === undefined ? [] : [`default ${JSON.stringify(property.default)}`]),
    ].join(", ");
    return [key, property.description === undefined ? remarks : `${remarks}: ${property.description}`];
  });
  const calls = methods.map((method): [string, string] => [signature(method), method.help ?? ""]);
  const section = (title: string, lines: [string, string][]) =>
    lines.length === 0 ? [] : ["", `${title}:`, table(lines, Math.max(...lines.map(([left]) => left.length)))];
  return [
    type,
    summary,
    "",
    `Client: ${client}`,
    ...(others.length === 0 ? [] : [`Also called: ${others.join(", ")}`]),
    ...section("Config", keys),
    ...section("Methods", calls),
  ]
    .map((line) => line.trimEnd())
    .join("\n");
}

function signature({ name, kind, args = [], rest, result, item }: MethodDescription): string {
  if (kind === "stream") return `${name}: byte stream`;
  const words = [...args.map(typeOf), ...(rest === undefined ? [] : [`...${typeOf(rest)}`])].join(", ");
  const answer = kind === "unary" ? typeOf(result ?? {}) : `stream of ${typeOf(item ?? {})}`;
  return `${name}(${words})${answer === "null" ? "" : ` -> ${answer}`}`;
}

/** A schema in a few words. */
export function typeOf(schema: Schema): string {
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum !== undefined) return schema.enum.map((value) => JSON.stringify(value)).join("|");
  const options = schema.anyOf ?? schema.oneOf;
  if (options !== undefined) return [...new Set(options.map((option) => typeOf(option)))].join("|");
  if (schema.type === "array" && !Array.isArray(schema.items) && schema.items !== undefined) {
    return `array of ${typeOf(schema.items as Schema)}`;
  }
  return schema.type === undefined ? "any" : [schema.type].flat().join("|");
}
