import type { Duplex } from "node:stream";
import * as z from "zod";

type Positional = readonly z.ZodType[];
type ArgsIn<A extends Positional> = { [K in keyof A]: z.input<A[K]> };
type ArgsOut<A extends Positional> = { [K in keyof A]: z.output<A[K]> };

/** Makes trailing parameters that accept `undefined` optional, as clients may leave them out. */
type Trailing<T extends readonly unknown[]> = T extends readonly [...infer Head, infer Last]
  ? undefined extends Last
    ? [...Trailing<Head>, Last?]
    : [...Head, Last]
  : [];

export interface UnaryMethod<A extends Positional = Positional, R extends z.ZodType = z.ZodType> {
  readonly kind: "unary";
  readonly args: A;
  /** Schema of further positional arguments, if any number may follow. */
  readonly rest: z.ZodType | undefined;
  readonly result: R;
  readonly help: string | undefined;
}

export interface StreamingMethod<A extends Positional = Positional, I extends z.ZodType = z.ZodType> {
  readonly kind: "streaming";
  readonly args: A;
  readonly rest: z.ZodType | undefined;
  readonly item: I;
  /** Answers an old client that calls this method as a unary one. */
  readonly collect: ((items: AsyncIterable<z.output<I>>) => Promise<unknown>) | undefined;
  readonly help: string | undefined;
}

export interface ByteStreamMethod {
  readonly kind: "stream";
  /** False if the device cannot be told that its caller will send no more, as on a serial line. */
  readonly halfCloses: boolean;
  readonly help: string | undefined;
}

export type Method = UnaryMethod | StreamingMethod | ByteStreamMethod;

/** What a kind of driver exports; the session, the typed client, `j` and the docs are derived from it. */
export interface Interface<M extends Record<string, Method> = Record<string, Method>> {
  /** Category in log records: power, storage, network, serial, … */
  readonly driverType: string;
  /** Import path of the Python client class that will call these methods. */
  readonly client: string;
  readonly methods: M;
}

export function defineInterface<const M extends Record<string, Method>>(definition: Interface<M>): Interface<M> {
  return definition;
}

/** A method answered once. Arguments are positional; trailing ones may be `.optional()`/`.nullish()`. */
export function unary<const A extends Positional, R extends z.ZodType>(of: {
  args: A;
  rest?: z.ZodType;
  result: R;
  help?: string;
}): UnaryMethod<A, R> {
  return { kind: "unary", args: of.args, rest: of.rest, result: of.result, help: of.help };
}

/** A method answered by any number of items. */
export function streaming<const A extends Positional, I extends z.ZodType>(of: {
  args: A;
  rest?: z.ZodType;
  item: I;
  collect?: (items: AsyncIterable<z.output<I>>) => Promise<unknown>;
  help?: string;
}): StreamingMethod<A, I> {
  return { kind: "streaming", args: of.args, rest: of.rest, item: of.item, collect: of.collect, help: of.help };
}

/** A byte stream both ways. An object-mode Duplex keeps message boundaries: one chunk, one frame. */
export function byteStream(of: { halfCloses?: boolean; help?: string } = {}): ByteStreamMethod {
  return { kind: "stream", halfCloses: of.halfCloses ?? true, help: of.help };
}

type OrVoid<T> = null extends T ? T | void : T;

/** How a driver's code looks for an interface: each method gets the {@link Call} first, then the checked arguments. */
export type Implementation<I extends Interface, C> = {
  [M in keyof I["methods"]]: I["methods"][M] extends UnaryMethod<infer A, infer R>
    ? | Unsupported
      | ((call: C, ...args: [...ArgsOut<A>, ...never[]]) => Promise<OrVoid<z.input<R>>> | OrVoid<z.input<R>>)
    : I["methods"][M] extends StreamingMethod<infer A, infer T>
      ? Unsupported | ((call: C, ...args: [...ArgsOut<A>, ...never[]]) => AsyncIterable<z.input<T>>)
      : Unsupported | ((call: C) => Promise<Duplex> | Duplex);
};

/** How a caller sees an interface, in this process or over gRPC. */
export type Calls<I extends Interface> = {
  [M in keyof I["methods"]]: I["methods"][M] extends UnaryMethod<infer A, infer R>
    ? (...args: Trailing<ArgsIn<A>>) => Promise<z.output<R>>
    : I["methods"][M] extends StreamingMethod<infer A, infer T>
      ? (...args: Trailing<ArgsIn<A>>) => AsyncIterable<z.output<T>>
      : () => Promise<Duplex>;
};

/** In place of a method's code: answers UNIMPLEMENTED with this reason, whatever the kind of call. */
export interface Unsupported {
  readonly unsupported: string;
}

export function unsupported(reason: string): Unsupported {
  return { unsupported: reason };
}
