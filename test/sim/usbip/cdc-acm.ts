/** A serial port that is a USB device of the communication class (PSTN120.pdf): /dev/ttyACM. */
import { InEndpoint, OutEndpoint, type DeviceFunction } from "./device.ts";

export interface CdcAcmOptions {
  /** Numbers of its endpoints. Default: data 1, notifications 2. */
  readonly dataEndpoint?: number;
  readonly notificationEndpoint?: number;
  readonly receive: (data: Buffer) => void;
}

export interface CdcAcm extends DeviceFunction {
  send(data: Uint8Array | string): void;
  /** Tells the host of carrier, break, framing error and the like: bits of SERIAL_STATE. */
  notify(state: number): void;
  readonly line: { baudRate: number; dataBits: number; dtr: boolean; rts: boolean; breaks: number };
}

const request = { setLineCoding: 0x20, getLineCoding: 0x21, setControlLineState: 0x22, sendBreak: 0x23 };
const serialState = 0x20;
const classDescriptor = 0x24;

export function cdcAcm({ dataEndpoint = 1, notificationEndpoint = 2, receive }: CdcAcmOptions): CdcAcm {
  const toHost = new InEndpoint({ number: dataEndpoint, type: "bulk" });
  const fromHost = new OutEndpoint({ number: dataEndpoint, type: "bulk" }, receive);
  const notifications = new InEndpoint({ number: notificationEndpoint, type: "interrupt" });
  const line = { baudRate: 9600, dataBits: 8, dtr: false, rts: false, breaks: 0 };
  let coding = Buffer.from([0x80, 0x25, 0, 0, 0, 0, 8]);
  let first = 0;
  return {
    interfaces(number) {
      first = number;
      const [lineCodingAndBreak, version] = [0x06, [0x10, 0x01]];
      const functional = [
        Buffer.from([5, classDescriptor, 0x00, ...version]),
        Buffer.from([5, classDescriptor, 0x01, 0, number + 1]),
        Buffer.from([4, classDescriptor, 0x02, lineCodingAndBreak]),
        Buffer.from([5, classDescriptor, 0x06, number, number + 1]),
      ];
      return [
        { class: 0x02, subclass: 0x02, protocol: 0x01, descriptors: functional, endpoints: [notifications] },
        { class: 0x0a, subclass: 0, protocol: 0, endpoints: [toHost, fromHost] },
      ];
    },
    control({ requestType, request: number, value, index }, data) {
      if ((requestType & 0x7f) !== 0x21 || index !== first) return undefined;
      if (number === request.getLineCoding) return coding;
      if (number === request.setLineCoding) {
        coding = Buffer.from(data);
        line.baudRate = coding.readUInt32LE(0);
        line.dataBits = coding.readUInt8(6);
      } else if (number === request.setControlLineState) {
        line.dtr = (value & 1) !== 0;
        line.rts = (value & 2) !== 0;
      } else if (number === request.sendBreak) {
        if (value !== 0) line.breaks += 1;
      } else {
        return undefined;
      }
      return Buffer.alloc(0);
    },
    send: (data) => toHost.send(Buffer.from(data)),
    notify: (state) =>
      notifications.send(Buffer.from([0xa1, serialState, 0, 0, first, 0, 2, 0, state & 0xff, state >> 8])),
    line,
  };
}
