/** What ts-proto generates for a message. */
interface Message<T> {
  encode(message: T): { finish(): Uint8Array };
  decode(bytes: Uint8Array): T;
}

/** What ts-proto generates for a service, as far as a call needs it. */
interface Service {
  readonly fullName: string;
  readonly methods: Readonly<
    Record<string, { readonly name: string; readonly requestType: unknown; readonly responseType: unknown }>
  >;
}

type RequestOf<M> = M extends { readonly requestType: Message<infer T> } ? T : never;
type ResponseOf<M> = M extends { readonly responseType: Message<infer T> } ? T : never;

/** How one method is called. */
export interface RpcMethod<Request, Response> {
  readonly path: string;
  readonly encode: (request: Request) => Uint8Array;
  readonly decode: (bytes: Uint8Array) => Response;
}

/** One method of a generated service definition. */
export function rpcMethod<S extends Service, N extends keyof S["methods"]>(
  service: S,
  name: N,
): RpcMethod<RequestOf<S["methods"][N]>, ResponseOf<S["methods"][N]>> {
  const method = service.methods[name as string] as {
    readonly name: string;
    readonly requestType: Message<RequestOf<S["methods"][N]>>;
    readonly responseType: Message<ResponseOf<S["methods"][N]>>;
  };
  return {
    path: `/${service.fullName}/${method.name}`,
    encode: (request) => method.requestType.encode(request).finish(),
    decode: (bytes) => method.responseType.decode(bytes),
  };
}
