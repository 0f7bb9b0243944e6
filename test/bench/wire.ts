import { once } from "node:events";
import { connect } from "node:net";
import { Metadata, credentials, type ClientDuplexStream } from "@grpc/grpc-js";
import { ExporterServiceClient, type GetReportResponse } from "../../proto/gen/jumpstarter/v1/jumpstarter.ts";
import { RouterServiceClient, type StreamRequest, type StreamResponse } from "../../proto/gen/jumpstarter/v1/router.ts";

/** A raw gRPC client, the same for both sides: neither side's own client is measured. */
export interface Wire {
  report(): Promise<GetReportResponse>;
  /** Opens the `connect` stream of the driver with this name at the top of the tree. */
  stream(driver: string): Promise<ClientDuplexStream<StreamRequest, StreamResponse>>;
  close(): void;
}

const options = {
  "grpc.max_receive_message_length": -1,
  // The client must not be what limits a download over a long way.
  "grpc-node.flow_control_window": 64 * 1024 * 1024,
};

/** Undefined while nothing listens on the port. */
export async function openWire(port: number): Promise<Wire | undefined> {
  const probe = connect(port, "127.0.0.1");
  try {
    await once(probe, "connect");
  } catch {
    return undefined;
  } finally {
    probe.destroy();
  }
  const target = `127.0.0.1:${port}`;
  const exporter = new ExporterServiceClient(target, credentials.createInsecure(), options);
  const router = new RouterServiceClient(target, credentials.createInsecure(), options);
  const report = () =>
    new Promise<GetReportResponse>((resolve, reject) => {
      exporter.getReport({}, (error, response) => (error ? reject(error) : resolve(response)));
    });
  return {
    report,
    stream: async (driver) => {
      const node = (await report()).reports.find((each) => each.labels["jumpstarter.dev/name"] === driver);
      if (node === undefined) throw new Error(`no driver ${driver}`);
      const metadata = new Metadata();
      metadata.set("request", JSON.stringify({ kind: "driver", uuid: node.uuid, method: "connect" }));
      const call = router.stream(metadata);
      await once(call, "metadata");
      return call;
    },
    close: () => {
      exporter.close();
      router.close();
    },
  };
}
