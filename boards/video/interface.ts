import * as z from "zod";
import { byteStream, defineInterface, unary } from "../../agent/driver/interface.ts";

const snapshot = unary({ args: [], result: z.string(), help: "One picture, as base64" });
const stream_path = unary({ args: [], result: z.string(), help: "Path of the MJPEG stream, for connect" });
const connect = byteStream({ help: "A connection to the camera's HTTP server" });

const pixels = () => z.number().int().nonnegative();

/** A camera that serves pictures over HTTP. */
export const video = defineInterface({
  driverType: "video",
  client: "jumpstarter_driver_video.client.VideoClient",
  methods: {
    snapshot,
    state: unary({
      args: [],
      result: z.object({
        online: z.boolean(),
        width: pixels().nullable(),
        height: pixels().nullable(),
        fps: z.number().nullable(),
      }),
      help: "Whether it sends pictures, and how large they are",
    }),
    stream_path,
    connect,
  },
});

/** What ustreamer tells of itself; frame rates are whole numbers for its client. */
export const ustreamerResult = z.object({
  encoder: z.object({ type: z.string(), quality: z.number().int() }),
  source: z.object({
    online: z.boolean(),
    desired_fps: z.number().int(),
    captured_fps: z.number().int(),
    resolution: z.object({ width: pixels(), height: pixels() }),
  }),
});

/** A camera of this host, served by ustreamer. */
export const ustreamer = defineInterface({
  driverType: "video",
  client: "jumpstarter_driver_ustreamer.client.UStreamerClient",
  methods: {
    snapshot,
    state: unary({
      args: [],
      result: z.object({
        online: z.boolean(),
        width: pixels(),
        height: pixels(),
        fps: z.number().int(),
        ok: z.boolean(),
        result: ustreamerResult,
      }),
      help: "Encoder, camera, resolution and frame rate",
    }),
    stream_path,
    connect,
  },
});
