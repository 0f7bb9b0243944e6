/** The first process in the guest: runs test files one after the other, as the host says, and passes on what they tell. */
import { execFileSync, spawn } from "node:child_process";
import { createReadStream, createWriteStream, openSync, readdirSync, readFileSync } from "node:fs";
import { readMessages, type FromGuest, type FromHost } from "./messages.ts";

const outputTail = 65_536;
const kernelTail = 3_000;

const ports = "/sys/class/virtio-ports";
const port = readdirSync(ports).find((name) => readFileSync(`${ports}/${name}/name`, "utf8").trim() === "control");
// It can be opened once.
const fd = openSync(`/dev/${port}`, "r+");
const toHost = createWriteStream("", { fd });
const send = (message: FromGuest) => toHost.write(JSON.stringify(message) + "\n");

const answers = new Map<number, (message: FromHost) => void>();

function run(file: string, timeoutMs: number): void {
  const words = ["--enable-source-maps", "--test-reporter", "/run/vm/reporter.js", `/run/vm/${file}`];
  const child = spawn(process.execPath, words, { stdio: ["ignore", "pipe", "pipe", "ipc"] });
  let output = "";
  const take = (chunk: Buffer) => (output = (output + chunk.toString()).slice(-outputTail));
  child.stdout?.on("data", take);
  child.stderr?.on("data", take);
  child.on("message", (message: FromGuest) => {
    if (message.type === "qmp") answers.set(message.id, (answer) => child.connected && child.send(answer));
    send(message);
  });
  let killing: NodeJS.Timeout | undefined;
  const end = (code: number | null, signal: string | null) => {
    clearTimeout(timer);
    clearTimeout(killing);
    if (code !== 0) output += `\nthe kernel:\n${kernelMessages()}`;
    send({ type: "ended", code, signal, output });
  };
  const timer = setTimeout(() => {
    output += `\nnot done in ${timeoutMs / 1000} s`;
    child.kill("SIGKILL");
    // Stuck in the kernel, whose driver waits for a device that this process plays, say.
    killing = setTimeout(() => {
      output += `, and it does not die:\n${stacks(child.pid)}`;
      end(null, "SIGKILL");
    }, 5_000);
  }, timeoutMs);
  // Not "close": a process that it left behind may hold its output open.
  child.on("exit", (code, signal) => setImmediate(end, code, signal));
}

createReadStream("", { fd }).on(
  "data",
  readMessages<FromHost>((message) => {
    if (message.type === "run") return run(message.file, message.timeoutMs);
    answers.get(message.id)?.(message);
    answers.delete(message.id);
  }) as (chunk: string | Buffer) => void,
);
send({ type: "ready" });

/** The last ones, without those that vhci_hcd has of every request that is taken back. */
function kernelMessages(): string {
  const lines = execFileSync("dmesg", { encoding: "utf8" }).split("\n");
  return lines
    .filter((line) => !/unlink->seqnum|urb->status/.test(line))
    .join("\n")
    .slice(-kernelTail);
}

/** Where in the kernel the threads of a process are. */
function stacks(pid = 0): string {
  const tasks = readdirSync(`/proc/${pid}/task`);
  return tasks.map((task) => readFileSync(`/proc/${pid}/task/${task}/stack`, "utf8")).join("\n");
}
