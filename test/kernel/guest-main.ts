/** The first process in the guest: runs test files one after the other, as the host says, and passes on what they tell. */
import { spawn } from "node:child_process";
import { createReadStream, createWriteStream, openSync, readdirSync, readFileSync } from "node:fs";
import { readMessages, type FromGuest, type FromHost } from "./messages.ts";

const outputTail = 65_536;

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
  const timer = setTimeout(() => {
    output += `\nnot done in ${timeoutMs / 1000} s`;
    child.kill("SIGKILL");
  }, timeoutMs);
  // Not "close": a process that it left behind may hold its output open.
  child.on("exit", (code, signal) => {
    clearTimeout(timer);
    setImmediate(() => send({ type: "ended", code, signal, output }));
  });
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
