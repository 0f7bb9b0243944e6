// A TCP proxy that hands every byte on after a fixed delay, in both directions, without limiting the rate.
// usage: delay-proxy.ts LISTEN_PORT TARGET_PORT DELAY_MS     (round trip = 2 x DELAY_MS)
import { connect, createServer, type Socket } from "node:net";

const [listenPort, targetPort, delayMs] = process.argv.slice(2).map(Number);
if (listenPort === undefined || targetPort === undefined || delayMs === undefined) process.exit(2);

/** Enough for 1 GB/s over 20 ms and more; past it the sender is held, so that memory stays bounded. */
const heldBytesLimit = 256 * 1024 * 1024;

createServer((client) => {
  const target = connect(targetPort, "127.0.0.1");
  for (const [from, to] of [
    [client, target],
    [target, client],
  ] as [Socket, Socket][]) {
    from.setNoDelay(true);
    const queue: { at: number; chunk: Buffer | undefined }[] = [];
    let held = 0;
    let timer: NodeJS.Timeout | undefined;
    const flush = () => {
      timer = undefined;
      while (queue[0] !== undefined && queue[0].at <= performance.now()) {
        const { chunk } = queue.shift() as { chunk: Buffer | undefined };
        if (chunk === undefined) to.end();
        else {
          held -= chunk.length;
          to.write(chunk);
        }
      }
      if (held < heldBytesLimit / 2) from.resume();
      if (queue[0] !== undefined) timer = setTimeout(flush, Math.max(1, queue[0].at - performance.now()));
    };
    const hold = (chunk: Buffer | undefined) => {
      queue.push({ at: performance.now() + delayMs, chunk });
      held += chunk?.length ?? 0;
      if (held > heldBytesLimit) from.pause();
      timer ??= setTimeout(flush, delayMs);
    };
    from.on("data", hold);
    from.on("end", () => hold(undefined));
    from.on("error", () => to.destroy());
    from.on("close", () => setTimeout(() => to.destroy(), delayMs + 1000).unref());
  }
}).listen(listenPort, "127.0.0.1", () => console.log("ready"));
