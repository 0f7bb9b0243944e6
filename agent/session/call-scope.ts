import { Duplex, type Readable, type Writable } from "node:stream";
import type { Call, Cancellable } from "../driver/driver.ts";
import { AgentError, describeZodError } from "../driver/errors.ts";
import type { Logger } from "../driver/log.ts";
import { resourceHandle, type CheckedResourceHandle, type ResourceHandle } from "../driver/resource.ts";
import { decoded, encoded } from "../stream/codecs.ts";
import { presignedSink, presignedSource } from "../stream/presigned.ts";
import { endOfUse, type ResourceTable } from "../stream/resources.ts";

/** The {@link Call} of one method call: opens the resources it is lent and closes them when it ends. */
export class CallScope implements Call {
  readonly log: Logger;
  readonly #resources: ResourceTable;
  readonly #caller: Cancellable;
  readonly #closers: (() => void)[] = [];

  constructor(resources: ResourceTable, log: Logger, caller: Cancellable) {
    this.#resources = resources;
    this.log = log;
    this.#caller = caller;
  }

  get signal(): AbortSignal {
    return this.#caller.signal;
  }

  async source(handle: ResourceHandle): Promise<Readable> {
    const checked = checkHandle(handle);
    if (checked.kind === "presigned_request") {
      const body = await presignedSource(checked, this.signal);
      this.#closers.push(() => body.destroy());
      return body;
    }
    const { stream, encoding } = this.#resources.take(checked.uuid);
    if (encoding === null && !(stream instanceof Duplex)) {
      // One of this process, whose end is not somebody else's.
      this.#closers.push(() => stream.destroy());
      return stream;
    }
    const plain = decoded(stream, encoding);
    this.#closers.push(() => {
      // Only when it is unpiped can the rest of the stream be thrown away.
      if (plain.closed) endOfUse(stream);
      else plain.once("close", () => endOfUse(stream)).destroy();
    });
    return plain;
  }

  async sink(handle: ResourceHandle): Promise<Writable> {
    const checked = checkHandle(handle);
    if (checked.kind === "presigned_request") {
      const upload = presignedSink(checked, this.signal);
      this.#closers.push(() => upload.destroy());
      return upload;
    }
    const { stream, encoding } = this.#resources.take(checked.uuid);
    if (!(stream instanceof Duplex)) throw new AgentError("E_NO_RESOURCE", "this resource can only be read");
    const plain = encoded(stream, encoding);
    // What the client sends the wrong way must not block its end.
    stream.resume();
    this.#closers.push(() => {
      if (!plain.writableEnded && !plain.destroyed) plain.end();
    });
    return plain;
  }

  /** Everything the call left open is closed; the client sees the end of its stream. */
  done(): void {
    for (const close of this.#closers.splice(0)) close();
  }
}

/** @throws AgentError E_INVALID in the words of the Python exporter. */
function checkHandle(handle: ResourceHandle): CheckedResourceHandle {
  const checked = resourceHandle.safeParse(handle);
  if (checked.success) return checked.data;
  throw new AgentError(
    "E_INVALID",
    `1 validation error for tagged-union[ClientStreamResource,PresignedRequestResource]: ${describeZodError(checked.error)}`,
  );
}
