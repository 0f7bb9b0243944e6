/** Length and counter before each packet, both 16 bits in Intel's order (ASAM MCD-1 XCP part 3, on Ethernet). */
const headerBytes = 4;

/** Frames of one link: counts those that leave, and cuts packets out of what comes. Holds one packet at most. */
export class EthernetFramer {
  #counter = 0;
  #held = new Uint8Array();

  frame(packet: Uint8Array): Uint8Array {
    const framed = new Uint8Array(headerBytes + packet.length);
    const view = new DataView(framed.buffer);
    view.setUint16(0, packet.length, true);
    view.setUint16(2, this.#counter, true);
    this.#counter = (this.#counter + 1) & 0xffff;
    framed.set(packet, headerBytes);
    return framed;
  }

  *push(chunk: Uint8Array): Generator<Uint8Array, void, undefined> {
    let rest = new Uint8Array(this.#held.length + chunk.length);
    rest.set(this.#held);
    rest.set(chunk, this.#held.length);
    for (;;) {
      const length = rest.length < headerBytes ? Infinity : (rest[0] ?? 0) | ((rest[1] ?? 0) << 8);
      if (rest.length < headerBytes + length) break;
      const packet = rest.subarray(headerBytes, headerBytes + length);
      rest = rest.subarray(headerBytes + length);
      yield packet;
    }
    this.#held = Uint8Array.from(rest);
  }
}
