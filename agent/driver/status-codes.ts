import type { ErrorCode } from "./error-codes.ts";

/** The code that stands for a gRPC status number in this process; any other number is a plain failure. */
export const codeOfStatus: ReadonlyMap<number, ErrorCode> = new Map([
  [1, "E_CANCELLED"],
  [3, "E_INVALID"],
  [4, "E_TIMEOUT"],
  [5, "E_NO_METHOD"],
  [7, "E_PERMISSION_DENIED"],
  [8, "E_LIMIT"],
  [9, "E_NOT_READY"],
  [12, "E_UNSUPPORTED"],
  [13, "E_IO"],
  [14, "E_CONNECTION"],
  [16, "E_UNAUTHENTICATED"],
]);
