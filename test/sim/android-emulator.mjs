// What the Android SDK's emulator does that its drivers see: its command line, its log, its console, its end.
// It is a double: no Android runs in it. Each start adds a line of JSON to $EMULATOR_RECORD.
// AVDs: `unknown` is refused as the emulator does, `deaf` does not end when it is asked, all others obey.
// Console commands beside the emulator's `kill`: `crash`.
import { appendFileSync } from "node:fs";
import { connect, createServer } from "node:net";

const words = process.argv.slice(2);
const after = (option) => words[words.indexOf(option) + 1];
const avd = after("-avd");
const consolePort = Number(after("-port"));
const adbServerPort = Number(process.env.ANDROID_ADB_SERVER_PORT);
appendFileSync(process.env.EMULATOR_RECORD, JSON.stringify({ words, adbServerPort, pid: process.pid }) + "\n");

if (avd === "unknown") {
  console.error(`PANIC: Unknown AVD name [${avd}], use -list-avds to see valid list.`);
  process.exit(1);
}
console.log("INFO    | Android emulator version 35.1.4.0 (double)");
console.log("WARNING | cannot add library vulkan-1");
console.error("emulator: double speaks on stderr");

createServer((socket) => {
  socket.on("error", () => {});
  socket.write("Android Console: Authentication required\r\nOK\r\n");
  let typed = "";
  socket.on("data", (chunk) => {
    const lines = (typed + chunk).split("\n");
    typed = lines.pop();
    for (const line of lines.map((line) => line.trim())) {
      if (line === "crash") process.kill(process.pid, "SIGABRT");
      if (line === "kill" && avd !== "deaf") {
        socket.end("OK: killing emulator, bye bye\r\n", () => process.exit(0));
      } else socket.write("OK\r\n");
    }
  });
}).listen(consolePort, "127.0.0.1", () => {
  // The ADB server looks for the device at the port above.
  const service = `host:emulator:${consolePort + 1}`;
  const server = connect(adbServerPort, "127.0.0.1", () => {
    server.end(service.length.toString(16).padStart(4, "0") + service);
  });
  server.on("error", (error) => console.log(`ERROR   | no ADB server: ${error.message}`));
});
process.on("SIGTERM", () => {
  if (avd !== "deaf") process.exit(0);
});
