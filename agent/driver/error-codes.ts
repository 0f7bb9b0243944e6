import type { ErrorCategory } from "./errors.ts";

interface ErrorCodeEntry {
  category: ErrorCategory;
  /** For docs/errors.md: when it happens. */
  meaning: string;
}

/** Every stable error code. `docs/errors.md` is generated from this table. */
export const errorCodes = {
  E_CANCELLED: { category: "cancelled", meaning: "the caller gave up, or the lease ended" },
  E_FAILED: { category: "failed", meaning: "a failure without a more precise code" },
  E_INVALID: { category: "invalid", meaning: "an argument or a value is not what the method takes" },
  E_TIMEOUT: { category: "timeout", meaning: "something did not happen in the time it was given" },
  E_NO_METHOD: {
    category: "no-such-method",
    meaning: "the driver does not export this method, or not for this kind of call",
  },
  E_NO_DRIVER: { category: "failed", meaning: "no driver of the session has this uuid" },
  E_NO_RESOURCE: {
    category: "failed",
    meaning: "the resource handle is unknown, already used, or its stream has gone",
  },
  E_ENCODING: { category: "failed", meaning: "compressed data is damaged, cut off, or not in the encoding it claims" },
  E_UNSUPPORTED: { category: "unsupported", meaning: "the hardware or this driver cannot do it" },
  E_NOT_READY: { category: "precondition", meaning: "the exporter is not in a state that allows driver calls" },
  E_LIMIT: { category: "exhausted", meaning: "a configured limit is reached" },
  E_IO: { category: "io", meaning: "the operating system refused: file, device or address" },
  E_CONNECTION: { category: "unavailable", meaning: "the peer refused or cut the connection" },
  E_DEVICE_OFFLINE: { category: "unavailable", meaning: "the driver's hardware is missing; the text says which" },
  E_RESULT: {
    category: "failed",
    meaning: "a driver answered with a value its interface does not allow (a bug in the driver)",
  },
  E_DIGEST: { category: "failed", meaning: "content is not what its digest and size promise; it was thrown away" },
  E_SIGNATURE: {
    category: "failed",
    meaning: "a bundle has no signature of a key that is trusted; it was not used",
  },
  E_TARGET: {
    category: "failed",
    meaning:
      "a disk may not be written: in use, read-only, too small, no whole disk, or another one than was looked at",
  },
  E_INCOMPATIBLE: {
    category: "precondition",
    meaning: "an update is made for another machine, does not fit, or is older than what runs; it was not written",
  },
  E_CONFIG: { category: "invalid", meaning: "the exporter configuration is wrong; file, line and column are named" },
  E_USAGE: { category: "invalid", meaning: "wrong words on the command line" },
  E_UNAUTHENTICATED: { category: "unauthenticated", meaning: "the passphrase or token is missing or wrong" },
  E_PERMISSION_DENIED: {
    category: "permission-denied",
    meaning: "the controller knows who asks, and does not allow it",
  },
} as const satisfies Record<string, ErrorCodeEntry>;

export type ErrorCode = keyof typeof errorCodes;
