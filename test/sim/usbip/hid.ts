/** A HID device with reports of a fixed length, without numbers (hid1_11.pdf). */
import { InEndpoint, OutEndpoint, type DeviceFunction } from "./device.ts";

export interface HidOptions {
  /** Default 64. */
  readonly reportBytes?: number;
  /** Number of both endpoints. Default 1. */
  readonly endpoint?: number;
  /** Output reports come as control requests, since the device has no endpoint for them. */
  readonly withoutOutEndpoint?: true;
  /** An output report came. */
  readonly receive: (report: Buffer) => void;
  /** Feature reports, which are read and written by control requests. Undefined is a stall. */
  feature?: { get(): Buffer | undefined; set(report: Buffer): void };
}

export interface Hid extends DeviceFunction {
  /** An input report. */
  send(report: Uint8Array): void;
}

const hidDescriptor = 0x21;
const reportDescriptor = 0x22;
const request = { getReport: 0x01, setReport: 0x09, setIdle: 0x0a };
const featureReport = 3;

export function hid({ reportBytes = 64, endpoint = 1, withoutOutEndpoint, receive, feature }: HidOptions): Hid {
  const toHost = new InEndpoint({ number: endpoint, type: "interrupt" });
  const fromHost = new OutEndpoint({ number: endpoint, type: "interrupt" }, receive);
  const reports = describeReports(reportBytes, feature !== undefined);
  const descriptor = Buffer.from([9, hidDescriptor, 0x11, 0x01, 0, 1, reportDescriptor, reports.length, 0]);
  return {
    interfaces: () => [
      {
        ...{ class: 0x03, subclass: 0, protocol: 0, descriptors: [descriptor] },
        endpoints: withoutOutEndpoint ? [toHost] : [toHost, fromHost],
      },
    ],
    control({ requestType, request: number, value }, data) {
      if (requestType === 0x81 && value >> 8 === reportDescriptor) return reports;
      if (requestType === 0x81 && value >> 8 === hidDescriptor) return descriptor;
      if (requestType === 0xa1 && number === request.getReport && value >> 8 === featureReport) return feature?.get();
      if (requestType !== 0x21) return undefined;
      if (number === request.setIdle) return Buffer.alloc(0);
      if (number !== request.setReport) return undefined;
      if (value >> 8 === featureReport) feature?.set(Buffer.from(data));
      else receive(Buffer.from(data));
      return Buffer.alloc(0);
    },
    send: (report) => toHost.send(report),
  };
}

/** Bytes of a vendor's own meaning, as many each way. */
function describeReports(bytes: number, hasFeature: boolean): Buffer {
  const field = (kind: number) => [0x09, 0x01, 0x15, 0x00, 0x26, 0xff, 0x00, 0x75, 8, 0x95, bytes, kind, 0x02];
  const [input, output, featureItem] = [0x81, 0x91, 0xb1];
  const kinds = [input, output, ...(hasFeature ? [featureItem] : [])];
  return Buffer.from([0x06, 0x00, 0xff, 0x09, 0x01, 0xa1, 0x01, ...kinds.flatMap(field), 0xc0]);
}
