// A DHCP server (RFC 2131) with one address, for the board on the other end of an interface.
// usage: node test/sim/dhcp-server.mjs SERVER-IP BOARD-IP
import { createSocket } from "node:dgram";

const [server, board] = process.argv.slice(2);
const address = (text) => Buffer.from(text.split(".").map(Number));
const option = (code, ...bytes) => Buffer.from([code, bytes.length, ...bytes]);
const messageTypes = { discover: 1, offer: 2, request: 3, ack: 5 };
const fixedPartLength = 236;
const cookie = Buffer.from([99, 130, 83, 99]);

const socket = createSocket("udp4");
socket.on("message", (message) => {
  if (message[0] !== 1 || message.length < fixedPartLength + cookie.length) return;
  const type = messageType(message);
  const answer = { [messageTypes.discover]: messageTypes.offer, [messageTypes.request]: messageTypes.ack }[type];
  if (answer === undefined) return;
  const reply = Buffer.alloc(fixedPartLength);
  // op, hardware type and length, transaction id, client hardware address: as they came, but a reply.
  message.copy(reply, 0, 0, 8);
  reply[0] = 2;
  address(board).copy(reply, 16);
  message.copy(reply, 28, 28, 44);
  const options = [
    option(53, answer),
    option(54, ...address(server)),
    option(51, 0, 0, 0x0e, 0x10),
    option(1, 255, 255, 255, 0),
    option(3, ...address(server)),
    Buffer.from([255]),
  ];
  socket.send(Buffer.concat([reply, cookie, ...options, Buffer.alloc(32)]), 68, "255.255.255.255");
});
socket.bind(67, () => {
  socket.setBroadcast(true);
  console.log("ready");
});

function messageType(message) {
  for (let at = fixedPartLength + cookie.length; at + 2 < message.length && message[at] !== 255;) {
    if (message[at] === 53) return message[at + 2];
    at += message[at] === 0 ? 1 : 2 + message[at + 1];
  }
  return undefined;
}
