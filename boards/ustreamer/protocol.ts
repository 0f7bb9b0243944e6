/** ustreamer's command line and the answers of its HTTP server. */
import * as z from "zod";
import { ustreamerResult } from "../video/interface.ts";

/** What a configuration gives for an option. */
export type Value = string | number | boolean | null;

/** `{device: /dev/video0, persistent: true}` as words; true and null are options without a value, false is none at all. */
export function commandLine(args: Readonly<Record<string, Value>>, socketPath: string): string[] {
  const words = Object.entries(args).flatMap(([key, value]) => {
    if (value === false) return [];
    return value === true || value === null ? [`--${key}`] : [`--${key}`, `${value}`];
  });
  return [...words, "--unix", socketPath];
}

const wholeNumber = z.number().transform(Math.round);

const answer = z.object({
  ok: z.boolean(),
  result: ustreamerResult.extend({
    source: ustreamerResult.shape.source.extend({ desired_fps: wholeNumber, captured_fps: wholeNumber }),
  }),
});

/** `GET /state` @throws ZodError, SyntaxError */
export function readState(body: string) {
  const { ok, result } = answer.parse(JSON.parse(body));
  const { online, resolution, captured_fps: fps } = result.source;
  return { online, width: resolution.width, height: resolution.height, fps, ok, result };
}

/** ustreamer up to 6 shows a picture that says NO SIGNAL while its camera is away; only this header tells. */
export function isOnline(headers: Readonly<Record<string, string | string[] | undefined>>): boolean {
  return headers["x-ustreamer-online"] !== "false";
}
