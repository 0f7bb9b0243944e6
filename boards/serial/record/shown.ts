import type { ConsoleEntry, ShownConsole } from "../../../agent/driver/shown.ts";
import type { SerialPort } from "../port.ts";
import { logOf } from "./log.ts";
import { describeMark } from "./marks.ts";
import type { ConsoleRecorder } from "./recorder.ts";

/** A port as the host's operator sees it: all that was recorded, of all leases. */
export function shownConsole(port: SerialPort, recorder: ConsoleRecorder | undefined): ShownConsole {
  const { receivedBytes, sentBytes, lines } = port.counts;
  const counts = { receivedBytes, sentBytes, lines };
  if (recorder === undefined) return { state: "its configuration does not say `record`", counts };
  return {
    state: recorder.state.state,
    counts,
    async *read(request, signal): AsyncGenerator<ConsoleEntry> {
      await recorder.record.ready;
      for await (const { seq, time, text, mark } of logOf(recorder.record, 0, request, signal)) {
        yield { seq, time, text, note: mark && describeMark(mark) };
      }
    },
  };
}
