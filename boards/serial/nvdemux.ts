import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import * as lax from "../../agent/driver/lax.ts";
import { Demuxer } from "./demuxer.ts";
import { serialConsole } from "./interface.ts";
import type { SerialPort } from "./port.ts";
import { lineConfig, makePacer, sharedPort } from "./open.ts";

const seconds = () => lax.number().pipe(z.number().min(0).max(2_000_000));

export default defineDriver({
  types: ["jumpstarter_driver_pyserial.nvdemux.driver.NVDemuxSerial"],
  summary: "One console of an NVIDIA Tegra board, through NVIDIA's demultiplexer.",
  implements: serialConsole,
  config: z.strictObject({
    demuxer_path: z.string().min(1).describe("the nv_tcu_demuxer program"),
    device: z
      .string()
      .startsWith("/", "must be an absolute path or pattern")
      .default("/dev/serial/by-id/usb-NVIDIA_Tegra_On-Platform_Operator_*-if01")
      .describe("the debug adapter's port; * ? [ find one of several names"),
    target: z.string().default("CCPLEX: 0").describe("console name, as the demuxer prints it"),
    chip: z.string().default("T264").describe("T234 (Orin) or T264 (Thor)"),
    ...lineConfig,
    timeout: seconds().prefault(10).describe("seconds to wait for the console"),
    poll_interval: seconds().prefault(1).describe("seconds between looks for the device"),
  }),
  open(context) {
    const { config, log } = context;
    const { target, baudrate, cps, timeout } = config;
    const demuxer = context.shared("nvdemux", () => new Demuxer(log));
    const unregister = demuxer.register(
      {
        demuxerPath: config.demuxer_path,
        device: config.device,
        chip: config.chip,
        pollIntervalMs: Math.max(100, config.poll_interval * 1000),
      },
      target,
    );
    const pacer = makePacer(cps);
    const settings = { baudRate: baudrate, disableHupcl: false };
    let port: SerialPort | undefined;
    const release = async () => port?.close();
    return {
      methods: {
        async connect({ signal, log }) {
          const path = await demuxer.console(target, timeout * 1000, signal);
          const pace = typeof cps === "number" ? `, cps: ${cps}` : "";
          log.info(`Connecting to ${target} at ${path}, baudrate: ${baudrate}${pace}`);
          port = sharedPort(path, context);
          return port.attach(settings, pacer, signal);
        },
      },
      release,
      async close() {
        unregister();
        await release();
      },
    };
  },
});
