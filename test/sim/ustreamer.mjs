#!/usr/bin/env node
// A double of the ustreamer program, for pictures on hosts without a camera. It takes ustreamer's options, and two of its own:
// --story FILE    JSON, read for every request: {picture, online, status, silent}; a life that finds {dies} says so and ends
// --lives FILE    gets a line for each start: its pid and its words
import { appendFileSync, readFileSync } from "node:fs";
import { createServer } from "node:http";

const words = process.argv.slice(2);
const option = (name) => words[words.indexOf(name) + 1];
const story = () => JSON.parse(readFileSync(option("--story"), "utf8"));
appendFileSync(option("--lives"), `${process.pid} ${words.join(" ")}\n`);

const { dies } = story();
if (dies !== undefined) {
  console.error(`==========\n-- ERROR [1.000 main] -- ${dies}`);
  process.exit(1);
}

createServer((request, response) => {
  const { picture = "", online = true, status = 200, silent = false, fps = 29.6, state } = story();
  const jpeg = Buffer.from(picture, "base64");
  if (silent) return;
  if (request.url === "/state") {
    const source = { resolution: { width: 48, height: 32 }, online, desired_fps: 30, captured_fps: fps };
    const result = { encoder: { type: "CPU", quality: 80 }, source, stream: { queued_fps: 0, clients: 0 } };
    return response.end(state ?? JSON.stringify({ ok: true, result }));
  }
  if (request.url === "/snapshot") {
    return response.writeHead(status, { "content-type": "image/jpeg", "x-ustreamer-online": `${online}` }).end(jpeg);
  }
  response.writeHead(200, { "content-type": "multipart/x-mixed-replace;boundary=boundarydonotcross" });
  response.write("--boundarydonotcross\r\nContent-Type: image/jpeg\r\n");
  response.write(`Content-Length: ${jpeg.length}\r\n\r\n`);
  response.write(jpeg);
  response.write("\r\n--boundarydonotcross\r\n");
}).listen(option("--unix"));
