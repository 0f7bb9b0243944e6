import {
  makeGenericClientConstructor,
  type CallOptions,
  type ChannelCredentials,
  type Client,
  type ClientDuplexStream,
  type ClientOptions,
  type ClientReadableStream,
  type ClientUnaryCall,
  type Metadata,
  type ServiceDefinition,
  type ServiceError,
} from "@grpc/grpc-js";

interface Message<T> {
  encode(message: T): { finish(): Uint8Array };
  decode(bytes: Uint8Array): T;
}

interface GeneratedMethod<Q, R> {
  readonly name: string;
  readonly requestType: Message<Q>;
  readonly requestStream: boolean;
  readonly responseType: Message<R>;
  readonly responseStream: boolean;
}

interface GeneratedService {
  readonly fullName: string;
  // The messages differ from method to method.
  // eslint-disable-next-line @typescript-eslint/no-explicit-any
  readonly methods: Readonly<Record<string, GeneratedMethod<any, any>>>;
}

type Callback<R> = (error: ServiceError | null, value: R) => void;

type MethodOf<M> =
  M extends GeneratedMethod<infer Q, infer R>
    ? M extends { requestStream: true }
      ? (metadata?: Metadata) => ClientDuplexStream<Q, R>
      : M extends { responseStream: true }
        ? (request: Q, metadata?: Metadata) => ClientReadableStream<R>
        : {
            (request: Q, done: Callback<R>): ClientUnaryCall;
            (request: Q, metadata: Metadata, done: Callback<R>): ClientUnaryCall;
            (request: Q, metadata: Metadata, options: CallOptions, done: Callback<R>): ClientUnaryCall;
          }
    : never;

export type GrpcClient<S extends GeneratedService> = Client & {
  readonly [M in keyof S["methods"]]: MethodOf<S["methods"][M]>;
};

/** A grpc-js client of a generated service definition: an implementation of gRPC that is not ours. */
export function grpcClient<S extends GeneratedService>(
  service: S,
  address: string,
  credentials: ChannelCredentials,
  options: ClientOptions = {},
): GrpcClient<S> {
  const definition: ServiceDefinition = Object.fromEntries(
    Object.entries(service.methods).map(([key, { name, requestType, responseType, requestStream, responseStream }]) => [
      key,
      {
        path: `/${service.fullName}/${name}`,
        requestStream,
        responseStream,
        requestSerialize: (message: unknown) => Buffer.from(requestType.encode(message).finish()),
        requestDeserialize: (bytes: Buffer) => requestType.decode(bytes) as unknown,
        responseSerialize: (message: unknown) => Buffer.from(responseType.encode(message).finish()),
        responseDeserialize: (bytes: Buffer) => responseType.decode(bytes) as unknown,
      },
    ]),
  );
  const Constructor = makeGenericClientConstructor(definition, service.fullName);
  return new Constructor(address, credentials, options) as unknown as GrpcClient<S>;
}
