// Plays the program `renode`, as far as its monitor goes: no machine is simulated. Renode itself is in no registry of ours.
// Its UART gives back what is written to it. RENODE_DOUBLE_LOG: a file that gets every command, one a line.
import { spawn } from "node:child_process";
import { appendFileSync, existsSync, readFileSync } from "node:fs";
import { createServer } from "node:net";

const port = Number(process.argv[process.argv.indexOf("--port") + 1]);
const log = process.env.RENODE_DOUBLE_LOG;
let name = "monitor";
let pty;

const unquoted = (word) => word.replace(/^@?"?|"$/g, "");

/** @returns what the monitor prints, or undefined for nothing at all, ever */
function execute(command) {
  if (log) appendFileSync(log, `${command}\n`);
  const [, create] = /^mach create "(.*)"$/.exec(command) ?? [];
  if (create !== undefined) return ((name = create), "");
  const [, platform] = /^machine LoadPlatformDescription @(.*)$/.exec(command) ?? [];
  if (platform !== undefined) return platform.includes("missing") ? `Could not find file '${platform}'` : "";
  const [, link] = /^emulation CreateUartPtyTerminal "term" "(.*)"$/.exec(command) ?? [];
  if (link !== undefined) return ((pty = spawn("socat", [`pty,rawer,link=${link}`, "exec:cat"])), "");
  const [, load, path, address] = /^sysbus (LoadELF|LoadBinary|LoadSymbolsFrom) (\S+)(?: (\S+))?$/.exec(command) ?? [];
  if (load !== undefined) {
    if (!existsSync(unquoted(path))) return `There was an error executing command\nFile ${path} not found`;
    const isElf = readFileSync(unquoted(path)).subarray(0, 4).equals(Buffer.from("\x7fELF", "latin1"));
    if (load === "LoadBinary" && address === undefined) return "Parameters did not match the signature";
    return load === "LoadELF" && !isElf ? "Error E39: Loading ELF failed" : "";
  }
  if (/^(start|machine Reset|connector Connect \S+ term|using .*)$/.test(command)) return "";
  if (command === "version") return "Renode double, 1.0\nand a line with (monitor) in it";
  if (command === "hang") return undefined;
  if (command === "crash") {
    console.error("Fatal error: something is broken\n  at Emul8");
    process.exit(134);
  }
  return `Unknown command or device: ${command}`;
}

const server = createServer((socket) => {
  socket.on("error", () => {});
  // WILL ECHO, WILL SUPPRESS GO AHEAD, a subnegotiation, and a colour.
  socket.write(Buffer.from([0xff, 0xfb, 0x01, 0xff, 0xfb, 0x03, 0xff, 0xfa, 0x18, 0x01, 0xff, 0xf0]));
  socket.write("Renode, version 0.0.0 (double)\r\n\r\n\x1b[33m(monitor) \x1b[0m");
  let received = "";
  socket.on("data", (chunk) => {
    received += chunk.toString();
    const lines = received.split("\n");
    received = lines.pop();
    for (const command of lines) {
      if (command === "quit") return process.exit(0);
      const answer = execute(command);
      if (answer === undefined) return;
      socket.write(`${command}\r\n`);
      // Telnet's words may come in the middle of a line, and in two pieces.
      socket.write(Buffer.from([0xff]));
      setTimeout(() => {
        socket.write(Buffer.from([0xfd, 0x1f]));
        socket.write(`${answer.replaceAll("\n", "\r\n")}${answer === "" ? "" : "\r\n"}(${name}) `);
      }, 1);
    }
  });
});
server.listen(port, "127.0.0.1");
console.log("[INFO] the double listens");
process.on("exit", () => pty?.kill());
process.on("SIGTERM", () => process.exit(143));
