// HTTP clients that move one byte in 5 s, from 50 addresses. Who is cut comes again after 5 s. Prints how often that was, each second.
// usage: node slow-http-clients.mjs PORT COUNT send|read
import { connect } from "node:net";
import { clearInterval, setInterval, setTimeout } from "node:timers";

const [port, count, how] = [Number(process.argv[2]), Number(process.argv[3]), process.argv[4]];
let cuts = 0;

function begin(index) {
  const socket = connect({ port, host: "127.0.0.1", localAddress: `127.0.3.${1 + (index % 50)}` });
  let drip;
  socket.on("error", () => {});
  socket.once("connect", () => {
    socket.write(how === "send" ? "G" : "GET /big HTTP/1.1\r\nHost: x\r\n\r\n");
    drip = setInterval(() => (how === "send" ? socket.write("E") : socket.read(1)), 5_000);
  });
  // One that reads sees an end; one that does not is told of a reset all the same.
  if (how === "send") socket.resume();
  socket.once("close", () => {
    clearInterval(drip);
    cuts += 1;
    setTimeout(begin, 5_000, index);
  });
}

for (let index = 0; index < count; index += 1) begin(index);
setInterval(() => console.log(cuts), 1_000);
