import { setTimeout as sleep } from "node:timers/promises";
import type { Call } from "../../agent/driver/driver.ts";
import { AgentError, DeviceOffline, toAgentError } from "../../agent/driver/errors.ts";
import { dial } from "../../agent/stream/dial.ts";
import { describeExit, englishEnvironment, lastWords, runProgram, type Finished } from "../../agent/sys/program.ts";
import { parseDevices, refusal } from "./protocol.ts";

const lookTimeoutS = 10;
const dialTimeoutMs = 3_000;
/** fastboot's own. */
const tcpPort = 5554;

/** One use of fastboot. @throws AgentError E_FAILED if it is not installed, in the words of the Python driver; E_TIMEOUT */
export async function fastboot(
  { signal, log }: Pick<Call, "signal" | "log">,
  args: readonly string[],
  timeoutS: number,
): Promise<Finished> {
  try {
    const options = { env: englishEnvironment(), timeoutMs: timeoutS * 1000, signal };
    return await runProgram(["fastboot", ...args], { ...options, onLine: (line) => log.debug(line) });
  } catch (error) {
    if (!(error instanceof DeviceOffline)) throw error;
    throw new AgentError("E_FAILED", "fastboot command not found", { hint: "apt install fastboot", cause: error });
  }
}

/** Why it did not work, of both that it prints. */
export const whyNot = ({ stdout, stderr, ...exit }: Finished): string =>
  refusal(stderr) ?? refusal(stdout) ?? (lastWords(stderr || stdout) || describeExit(exit));

/** Boards that are reached over a network are not listed. */
const isOnNetwork = (serial: string) => /^(tcp|udp):/.test(serial);

/**
 * Looks for the board until it is there.
 * @param wanted its serial number, if there may be several
 * @returns undefined if it does not come. @throws AgentError E_FAILED if several are there: a guess could flash another board
 */
export async function findBoard(
  call: Call,
  { attempts, delayS, wanted }: { attempts: number; delayS: number; wanted: string | undefined },
): Promise<string | undefined> {
  for (let attempt = 1; ; attempt += 1) {
    const found = await lookOnce(call, wanted);
    if (found !== undefined) {
      call.log.info(`Found fastboot device: ${found}`);
      return found;
    }
    call.log.warn(`No fastboot devices found on attempt ${attempt}/${attempts}`);
    if (attempt >= attempts) return undefined;
    await sleep(delayS * 1000, undefined, { signal: call.signal });
  }
}

/** fastboot itself would wait until somebody does. */
async function takesConnections(serial: string, signal: AbortSignal): Promise<boolean> {
  const [, host, port] = /^tcp:(.+?)(?::(\d+))?$/.exec(serial) ?? [];
  if (host === undefined) return true;
  try {
    (await dial({ host, port: Number(port ?? tcpPort) }, serial, signal, dialTimeoutMs)).destroy();
    return true;
  } catch {
    signal.throwIfAborted();
    return false;
  }
}

async function lookOnce(call: Call, wanted: string | undefined): Promise<string | undefined> {
  let result: Finished;
  try {
    const network = wanted !== undefined && isOnNetwork(wanted);
    if (network && !(await takesConnections(wanted, call.signal))) return undefined;
    result = await fastboot(call, network ? ["-s", wanted, "getvar", "product"] : ["devices", "-l"], lookTimeoutS);
    if (network) return result.code === 0 ? wanted : undefined;
  } catch (error) {
    if (toAgentError(error).code !== "E_TIMEOUT") throw error;
    return undefined;
  }
  if (result.code !== 0) throw new AgentError("E_FAILED", `Fastboot command failed: ${whyNot(result)}`);
  const { devices, problems } = parseDevices(result.stdout);
  for (const problem of problems) call.log.warn(`fastboot: ${problem}`);
  if (wanted !== undefined) return devices.find((serial) => serial === wanted);
  const [only, second] = devices;
  if (second === undefined) return only;
  throw new AgentError(
    "E_FAILED",
    `found multiple fastboot devices; specify fastboot_serial: ${devices.join(" and ")}`,
  );
}
