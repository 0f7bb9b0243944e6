import { createWriteStream } from "node:fs";
import type { Duplex } from "node:stream";
import { pipeline } from "node:stream/promises";
import { serialConsole, serialPort } from "../../../../boards/serial/interface.ts";
import type { LogSource } from "../../../../boards/serial/record/show.ts";
import { AgentError, toAgentError } from "../../../driver/errors.ts";
import { printLog } from "../../console-log.ts";
import { command, type Commands, type Run } from "../command.ts";
import { runConsole } from "../console.ts";

export const commands: Commands = {
  "start-console": command({
    help: "Start serial port console",
    run: async (run) => {
      await runConsole(() => run.node.as(serialConsole, { signal: run.signal }).connect());
    },
  }),
  pipe: command({
    help: `Pipe serial port data to stdout or a file, and stdin to the port if it is piped

Reads until Ctrl-C or the end of the connection; input ends at the end of stdin.

  j serial pipe                                   # serial output to stdout
  j serial pipe -o serial.log                     # ... to a file
  echo hello | j serial pipe                      # send, then keep reading
  cat commands.txt | j serial pipe --no-output    # send and leave`,
    options: {
      output: { kind: "text", short: "o", help: "Output file path. If not specified, writes to stdout." },
      input: { kind: "flag", short: "i", help: "Force enable stdin to serial port. Auto-detected if stdin is piped." },
      noInput: { kind: "flag", help: "Disable stdin to serial port, even if stdin is piped." },
      append: { kind: "flag", short: "a", help: "Append to output file instead of overwriting." },
      noOutput: { kind: "flag", help: "Disable serial output. Send stdin to serial and exit at EOF." },
    },
    run: async (run, { output, input, noInput, append, noOutput }) => {
      const usage = (message: string) => new AgentError("E_USAGE", message);
      if (input && noInput) throw usage("Cannot use both --input and --no-input");
      if (noOutput && output !== undefined) throw usage("Cannot use both --no-output and --output");
      if (noOutput && append) throw usage("Cannot use both --no-output and --append");
      if (append && output === undefined) throw usage("--append requires --output");
      const sending = !noInput && (input || !process.stdin.isTTY);
      if (noOutput && !sending) throw usage("--no-output requires stdin input (pipe stdin or use --input)");

      const ways = [...(sending ? ["stdin→serial"] : []), ...(noOutput ? [] : [`serial→${output ?? "stdout"}`])];
      run.note(`${ways.join(", ")} (${noOutput ? "exits at end of input" : "Ctrl+C to exit"})`);
      const stream = await run.node.as(serialConsole, { signal: run.signal }).connect();
      try {
        if (noOutput) await send(stream);
        else return await receive(run, stream, { output, append, sending });
      } finally {
        stream.destroy();
      }
    },
  }),
  log: command({
    help: `Print what the exporter has recorded of the console

What was printed since the lease began, with times and marks for power and leases; where nobody listened, too.

  j serial log -n 50                  # the last lines
  j serial log -f                     # ... and what comes
  j serial log --grep 'panic|oops'    # lines that match
  j serial log --boots                # how long the board took to boot`,
    options: {
      follow: { kind: "flag", short: "f", help: "Go on with what comes, until Ctrl-C" },
      lines: { kind: "integer", short: "n", help: "Only so many of the last lines" },
      since: { kind: "text", help: "Only what came since: 30s, 10m, 2h, 1d, or a time in RFC 3339" },
      grep: { kind: "text", help: "Only lines that match a regular expression" },
      boots: { kind: "flag", help: "Only power and boot times" },
      json: { kind: "flag", help: "A line of JSON for each line" },
      raw: { kind: "flag", help: "The exact bytes, without times and marks" },
    },
    run: async ({ node, signal }, { since, ...options }) => {
      const serial = node.as(serialPort, { signal });
      const asked = since === undefined ? {} : { since };
      const source: LogSource = {
        history: (lines) => serial.log(lines === undefined ? asked : { ...asked, lines }),
        live: (after) => serial.log({ ...asked, from: after + 1, follow: true }),
      };
      await printLog(source, options, signal);
    },
  }),
  status: command({
    help: "Show the port: line errors, bytes, recording, boot times",
    run: async ({ node, signal, print }) => {
      print(JSON.stringify(await node.as(serialPort, { signal }).status(), undefined, 2));
    },
  }),
  "send-break": command({
    help: "Send a break, as for SysRq",
    options: { ms: { kind: "integer", default: 250, help: "How long, in milliseconds" } },
    run: async ({ node, signal }, { ms }) => void (await node.as(serialPort, { signal }).send_break(ms)),
  }),
};

/** Sends stdin and says that no more will come; what was taken is written out even after we have left. */
async function send(stream: Duplex): Promise<void> {
  stream.resume();
  await pipeline(process.stdin, stream);
}

async function receive(
  run: Run,
  stream: Duplex,
  { output, append, sending }: { output: string | undefined; append: boolean; sending: boolean },
): Promise<number> {
  if (sending) pipeline(process.stdin, stream).catch(() => {}); // the reading side tells why
  const sink = output === undefined ? process.stdout : createWriteStream(output, { flags: append ? "a" : "w" });
  try {
    await pipeline(stream, sink, { end: output !== undefined });
    run.note("\nSerial connection closed normally (end of stream).");
    return 0;
  } catch (error) {
    if (run.signal.aborted) {
      run.note("\nStopped.");
      return 0;
    }
    run.note(`\nSerial connection lost: ${toAgentError(error).message}`);
    return 1;
  } finally {
    process.stdin.destroy();
  }
}
