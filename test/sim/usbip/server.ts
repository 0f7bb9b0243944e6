/** A simulated USB device at its end of a USB/IP connection (the kernel's Documentation/usb/usbip_protocol.rst). */
import type { Duplex } from "node:stream";
import { BusDevice, InEndpoint, type DeviceModel, type Setup } from "./device.ts";

const headerBytes = 48;
const command = { submit: 1, unlink: 2, submitReply: 3, unlinkReply: 4 };
/** Linux's numbers: the device stalls; the request was taken back. */
const EPIPE = -32;
const ECONNRESET = -104;

interface Waiting {
  readonly seqnum: number;
  readonly endpoint: number;
  readonly length: number;
}

/** Answers the requests of a host controller, from the moment when the device was imported until the stream ends. */
export function serveDevice(stream: Duplex, model: DeviceModel): void {
  const device = new BusDevice(model);
  /** Requests to the device's IN endpoints that it has nothing for yet, and control requests under way. */
  const waiting: Waiting[] = [];

  const reply = (seqnum: number, status: number, actualLength: number, data?: Buffer) => {
    const header = Buffer.alloc(headerBytes);
    header.writeUInt32BE(command.submitReply, 0);
    header.writeUInt32BE(seqnum, 4);
    header.writeInt32BE(status, 20);
    header.writeUInt32BE(actualLength, 24);
    stream.write(data === undefined ? header : Buffer.concat([header, data]));
  };
  const takeBack = (seqnum: number): boolean => {
    const index = waiting.findIndex((request) => request.seqnum === seqnum);
    if (index === -1) return false;
    waiting.splice(index, 1);
    return true;
  };
  const serve = (endpoint: InEndpoint) => {
    for (const request of waiting.filter(({ endpoint: number }) => number === endpoint.address)) {
      const data = endpoint.take(request.length);
      if (data === undefined) return;
      takeBack(request.seqnum);
      if (data === "stall") reply(request.seqnum, EPIPE, 0);
      else reply(request.seqnum, 0, data.length, data);
    }
  };
  const control = async (seqnum: number, setup: Setup, data: Buffer) => {
    waiting.push({ seqnum, endpoint: 0, length: setup.length });
    const answer = await device.control(setup, data);
    // Taken back meanwhile: nobody wants it.
    if (!takeBack(seqnum)) return;
    const isIn = (setup.requestType & 0x80) !== 0;
    if (answer === undefined) reply(seqnum, EPIPE, 0);
    else if (isIn) reply(seqnum, 0, answer.length, answer);
    else reply(seqnum, 0, data.length);
  };
  const submit = (seqnum: number, isIn: boolean, number: number, length: number, setup: Buffer, data: Buffer) => {
    if (number === 0) return void control(seqnum, readSetup(setup), data);
    const endpoint = device.endpoints.get(isIn ? 0x80 | number : number);
    if (endpoint === undefined) return reply(seqnum, EPIPE, 0);
    if (endpoint instanceof InEndpoint) {
      waiting.push({ seqnum, endpoint: endpoint.address, length });
      return serve(endpoint);
    }
    const refused = endpoint.halted || endpoint.receive(data) === "stall";
    if (refused) endpoint.halted = true;
    reply(seqnum, refused ? EPIPE : 0, refused ? 0 : length);
  };

  for (const endpoint of device.endpoints.values()) {
    if (endpoint instanceof InEndpoint) endpoint.onReady(() => serve(endpoint));
  }
  let received = Buffer.alloc(0);
  stream.on("error", () => {});
  stream.on("data", (chunk: Buffer) => {
    received = Buffer.concat([received, chunk]);
    for (;;) {
      if (received.length < headerBytes) return;
      const seqnum = received.readUInt32BE(4);
      if (received.readUInt32BE(0) === command.unlink) {
        const header = Buffer.alloc(headerBytes);
        header.writeUInt32BE(command.unlinkReply, 0);
        header.writeUInt32BE(seqnum, 4);
        header.writeInt32BE(takeBack(received.readUInt32BE(20)) ? ECONNRESET : 0, 20);
        received = received.subarray(headerBytes);
        stream.write(header);
        continue;
      }
      const isIn = received.readUInt32BE(12) === 1;
      const length = received.readUInt32BE(24);
      const whole = headerBytes + (isIn ? 0 : length);
      if (received.length < whole) return;
      const [endpoint, setup] = [received.readUInt32BE(16), received.subarray(40, 48)];
      const data = received.subarray(headerBytes, whole);
      received = received.subarray(whole);
      submit(seqnum, isIn, endpoint, length, setup, data);
    }
  });
}

function readSetup(bytes: Buffer): Setup {
  return {
    requestType: bytes.readUInt8(0),
    request: bytes.readUInt8(1),
    value: bytes.readUInt16LE(2),
    index: bytes.readUInt16LE(4),
    length: bytes.readUInt16LE(6),
  };
}
