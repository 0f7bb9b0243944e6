import * as z from "zod";
import { defineInterface, streaming, unary } from "../../agent/driver/interface.ts";

/** A piece of output: stdout, stderr, and with the last one the exit code. */
const output = z.tuple([z.string(), z.string(), z.number().nullable()]);
type Output = z.output<typeof output>;

/** What a client from before September 2025 gets in its one answer; its gRPC takes 4 MiB. */
const collectLimitChars = 1024 * 1024;

/** Answers a client that wants everything at once. */
async function collect(pieces: AsyncIterable<Output>): Promise<Output> {
  let [stdout, stderr, left] = ["", "", collectLimitChars];
  let code: number | null = null;
  for await (const piece of pieces) {
    stdout += piece[0].slice(0, left);
    left -= Math.min(left, piece[0].length);
    stderr += piece[1].slice(0, left);
    left -= Math.min(left, piece[1].length);
    code = piece[2] ?? code;
  }
  return [stdout, left > 0 ? stderr : `${stderr}\n[output cut after ${collectLimitChars} characters]\n`, code];
}

/** Scripts of the exporter's configuration, called by name. */
export const shell = defineInterface({
  driverType: "shell",
  client: "jumpstarter_driver_shell.client.ShellClient",
  methods: {
    get_methods: unary({ args: [], result: z.array(z.string()), help: "Names of the configured scripts" }),
    call_method: streaming({
      // method, environment; then any number of arguments for the script
      args: [z.string(), z.record(z.string(), z.string()).nullish()],
      rest: z.unknown(),
      item: output,
      collect,
      help: "Runs a script; output comes as it is written, the exit code with the last item",
    }),
  },
});
