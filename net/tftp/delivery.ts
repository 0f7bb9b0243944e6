import { openInFolders, type Refusal } from "../files.ts";
import { BlockQueue } from "./blocks.ts";
import type { Asked, Prepared, Refused } from "./machine.ts";
import { negotiate } from "./options.ts";
import { NetasciiPayload, OctetPayload } from "./payload.ts";
import { buildOack, errorCode, type ErrorCode } from "./protocol.ts";
import { Transfer } from "./transfer.ts";
import { retransmission } from "./view.ts";

/** What a client is told about a name that it may not read or write. */
export const refusals: Readonly<Record<Refusal, readonly [ErrorCode, string]>> = {
  missing: [errorCode.fileNotFound, "File not found"],
  folder: [errorCode.fileNotFound, "Not a file"],
  special: [errorCode.fileNotFound, "Not a file"],
  outside: [errorCode.accessViolation, "Access violation"],
  forbidden: [errorCode.accessViolation, "Access violation"],
};

/** Opens the file that a read request asks for, and agrees on the terms. */
export async function prepareDelivery({ request, view, limits }: Asked): Promise<Prepared | Refused> {
  const file = await openInFolders(view.roots, request.filename);
  if ("refused" in file) {
    // A name from the top that is not below the folder may have meant the host's own tree.
    const isAbsolute = request.filename.startsWith("/") && file.refused === "missing";
    return { refused: refusals[isAbsolute ? "outside" : file.refused] };
  }
  const isNetascii = request.mode === "netascii";
  const terms = negotiate(request.options, {
    sizeBytes: isNetascii ? undefined : file.sizeBytes,
    windowLimit: limits.windowSize,
  });
  if ("refused" in terms) {
    await file.handle.close();
    return { refused: [errorCode.optionRefused, terms.refused] };
  }
  const { blockSizeBytes, windowSize, rollover, accepted } = terms;
  return {
    terms,
    sizeBytes: file.sizeBytes,
    run({ send, onOutcome, onEnd }) {
      const octets = new OctetPayload(file.handle, file.sizeBytes);
      const transfer: Transfer = new Transfer({
        blocks: new BlockQueue({
          payload: isNetascii ? new NetasciiPayload(octets) : octets,
          blockSizeBytes,
          windowSize,
          rollover,
          onReady: (failure) => transfer.ready(failure),
          // Nothing was written, so nothing can be lost by a failing close.
          onClose: () => void file.handle.close().catch(() => {}),
        }),
        windowSize,
        rollover,
        oack: accepted.length === 0 ? undefined : buildOack(accepted),
        send,
        onEnd: (outcome) => {
          onOutcome(outcome);
          onEnd();
        },
        retransmission: retransmission(limits, windowSize),
        silenceMs: limits.silenceMs,
        totalMs: limits.totalMs,
      });
      return transfer;
    },
    discard: () => file.handle.close(),
  };
}
