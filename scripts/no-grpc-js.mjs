// Stands in for @grpc/grpc-js in the bundle. The generated protocol code makes client classes with it that the agent
// does not use (its client and server speak gRPC on Node's own HTTP/2); half a megabyte of code would load with them.
export class Client {}

export function makeGenericClientConstructor() {
  return class {
    constructor() {
      throw new Error("the generated gRPC clients are not part of the bundle");
    }
  };
}
