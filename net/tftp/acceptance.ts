import { isDiskFull, Upload, type UploadRefusal } from "../uploads.ts";
import { refusals } from "./delivery.ts";
import type { Asked, Prepared, Refused } from "./machine.ts";
import { negotiate } from "./options.ts";
import { buildOack, errorCode, type ErrorCode } from "./protocol.ts";
import { Reception } from "./reception.ts";
import { FileStore } from "./store.ts";
import { retransmission } from "./view.ts";

const fileExists: readonly [ErrorCode, string] = [errorCode.fileExists, "File already exists"];
const diskFull: readonly [ErrorCode, string] = [errorCode.diskFull, "Disk full"];
const uploadRefusals: Readonly<Record<UploadRefusal, readonly [ErrorCode, string]>> = {
  ...refusals,
  exists: fileExists,
  full: diskFull,
};

/** Makes room for the file that a write request brings, and agrees on the terms. */
export async function prepareAcceptance({ request, view, limits }: Asked): Promise<Prepared | Refused> {
  const { uploads } = view;
  if (uploads === undefined) return { refused: [errorCode.illegalOperation, "Write requests are not supported"] };
  const isNetascii = request.mode === "netascii";
  const terms = negotiate(request.options, {
    sizeBytes: isNetascii ? undefined : "as-announced",
    windowLimit: limits.windowSize,
  });
  if ("refused" in terms) return { refused: [errorCode.optionRefused, terms.refused] };
  const { blockSizeBytes, windowSize, rollover, announcedBytes, accepted } = terms;
  if (!isNetascii && (announcedBytes ?? 0) > uploads.maxBytes) {
    return { refused: [errorCode.diskFull, tooLarge(uploads.maxBytes)] };
  }
  const upload = await Upload.begin(uploads, request.filename, announcedBytes);
  if ("refused" in upload) return { refused: uploadRefusals[upload.refused] };
  return {
    terms,
    sizeBytes: isNetascii ? undefined : announcedBytes,
    run({ send, onOutcome, onEnd }) {
      const reception: Reception = new Reception({
        blockSizeBytes,
        windowSize,
        rollover,
        oack: accepted.length === 0 ? undefined : buildOack(accepted),
        limit: { bytes: uploads.maxBytes, message: tooLarge(uploads.maxBytes) },
        store: new FileStore({
          upload,
          netascii: isNetascii,
          onReady: () => reception.ready(),
          onStored: (isNew) => (isNew ? reception.stored() : reception.fail(...fileExists)),
          onFailure: (error) => {
            const reason = error instanceof Error ? error.message : "write error";
            if (isDiskFull(error)) reception.fail(...diskFull, reason);
            else reception.abort("Write error on the server", reason);
          },
        }),
        send,
        onOutcome,
        onEnd,
        retransmission: retransmission(limits, windowSize),
        silenceMs: limits.silenceMs,
        totalMs: limits.totalMs,
      });
      return reception;
    },
    discard: () => upload.discard(),
  };
}

function tooLarge(maxBytes: number): string {
  return `Files of more than ${maxBytes} bytes are not taken`;
}
