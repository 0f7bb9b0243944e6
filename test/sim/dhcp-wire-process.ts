// A DHCP client's port without a mind: what a test says is sent, what comes is told.
// usage: node --import tsx test/sim/dhcp-wire-process.ts DEVICE PORT
// stdin: lines of `ADDRESS PORT HEX`; stdout: `ready`, then lines of `ADDRESS PORT HEX`.
import { createSocket } from "node:dgram";
import { createInterface } from "node:readline";
import { loadInterfaceUdp } from "../../agent/sys/udp-interface.ts";

const [device = "", port = ""] = process.argv.slice(2);
const fd = (await loadInterfaceUdp()).open({ device, address: "0.0.0.0", port: Number(port) });
const socket = createSocket("udp4");
socket.on("message", (packet, from) => console.log(`${from.address} ${from.port} ${packet.toString("hex")}`));
socket.on("error", () => {});
socket.bind({ fd }, () => console.log("ready"));
for await (const line of createInterface({ input: process.stdin })) {
  const [toAddress, toPort, hex = ""] = line.split(" ");
  socket.send(Buffer.from(hex, "hex"), Number(toPort), toAddress, () => {});
}
