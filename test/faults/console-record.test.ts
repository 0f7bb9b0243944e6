/** Consoles that are recorded: an agent that is killed, a disk that is full, readers that sleep. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Duplex } from "node:stream";
import { test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { connect } from "../../agent/client/connect.ts";
import { serialPort } from "../../boards/serial/interface.ts";
import type { LogItem } from "../../boards/serial/record/log-item.ts";
import { RecordReader } from "../../boards/serial/record/reader.ts";
import { scratch, startAgent, type AgentProcess } from "../sim/agent.ts";
import { noPtys, plugCable } from "../sim/pty.ts";
import { eventually } from "../sim/rig.ts";

async function recording(t: TestContext, record: Record<string, unknown>) {
  const cable = await plugCable(t);
  const agent = await startAgent(t, {
    serial: { type: "jumpstarter_driver_pyserial.driver.PySerial", config: { url: cable.path, record } },
  });
  const calls = await client(t, agent);
  await eventually("it records", async () => (await calls.status()).record?.state === "recording");
  return { cable, agent, calls };
}

async function client(t: TestContext, agent: AgentProcess) {
  const connected = await connect({ host: agent.socketPath });
  t.after(() => connected.close());
  const node = connected.find("serial");
  assert.ok(node);
  return node.as(serialPort);
}

async function recorded(directory: string): Promise<Buffer> {
  const reader = new RecordReader(join(directory, "test", "serial"));
  const output: Uint8Array[] = [];
  for (let some = await reader.read(); some.length > 0; some = await reader.read()) {
    for (const { kind, payload } of some) if (kind === "o") output.push(payload);
  }
  await reader.close();
  return Buffer.concat(output);
}

async function send(board: Duplex, bytes: Buffer | string): Promise<void> {
  if (!board.write(bytes)) await once(board, "drain");
}

test("a killed agent has recorded all but the last second", { skip: noPtys }, async (t) => {
  const directory = scratch(t);
  const { cable, agent } = await recording(t, { directory });
  const sentAtMs: number[] = [];
  for (const began = performance.now(); performance.now() - began < 2_500;) {
    await send(cable.board, `line ${sentAtMs.length}\n`);
    sentAtMs.push(performance.now());
    await sleep(3);
  }
  agent.child.kill("SIGKILL");
  const killedMs = performance.now();
  await once(agent.child, "exit");
  const lines = (await recorded(directory)).toString().split("\n");
  const must = sentAtMs.findLastIndex((at) => killedMs - at >= 1_000);
  assert.ok(must > 100, `${must}`);
  for (let number = 0; number <= must; number += 1) assert.equal(lines[number], `line ${number}`);
});

test(
  "a reader that sleeps for ten seconds disturbs nobody, and the record has everything",
  { skip: noPtys },
  async (t) => {
    const directory = scratch(t);
    const { cable, agent, calls } = await recording(t, { directory, memory_bytes: 128 * 1024 });
    const sleeper = await (await client(t, agent)).connect();
    sleeper.pause();
    const follower = (await client(t, agent)).log({ follow: true })[Symbol.asyncIterator]();
    await follower.next();
    const awake = await calls.connect();
    const heard: Buffer[] = [];
    awake.on("data", (chunk: Buffer) => heard.push(chunk));
    const block = Buffer.from(Array.from({ length: 900 }, (_, line) => `${line} ${"=".repeat(60)}\n`).join(""));
    let sent = 0;
    let slowestMs = 0;
    for (const began = performance.now(); performance.now() - began < 10_000;) {
      const beganMs = performance.now();
      await send(cable.board, block);
      sent += 1;
      await eventually("it is heard", () => heard.reduce((sum, { length }) => sum + length, 0) === sent * block.length);
      slowestMs = Math.max(slowestMs, performance.now() - beganMs);
      await sleep(40);
    }
    assert.ok(sent * block.length > 4 * 1024 * 1024, "more than the sleeper may keep waiting");
    assert.ok(slowestMs < 5_000, `${slowestMs} ms`);
    const all = Buffer.alloc(sent * block.length, block);
    assert.ok(Buffer.concat(heard).equals(all));
    // The follower was left behind, and gets what it missed from the files.
    let followed = "";
    while (followed.length < all.length) {
      const { mark, text = "" } = ((await follower.next()) as IteratorYieldResult<LogItem>).value;
      assert.notEqual(mark?.mark, "missed");
      followed += text;
    }
    assert.equal(followed, all.toString());
    await sleep(500);
    assert.ok((await recorded(directory)).equals(all));
    sleeper.destroy();
  },
);

test(
  "a full disk costs the files, not the console nor the memory; they go on when there is room",
  { skip: noPtys },
  async (t) => {
    const directory = scratch(t);
    if (spawnSync("mount", ["-t", "tmpfs", "-o", "size=512k,mode=700", "tmpfs", directory]).status !== 0) {
      t.skip("mounting a tmpfs needs root");
      return;
    }
    try {
      const filler = join(directory, "filler");
      writeFileSync(filler, Buffer.alloc(300 * 1024));
      const { cable, agent, calls } = await recording(t, { directory });
      const line = `${"x".repeat(63)}\n`;
      await send(cable.board, line.repeat(8 * 1024));
      await eventually("the disk is full", async () => (await calls.status()).record?.problem !== null);
      await send(cable.board, "still here\n");
      const tail = async () => {
        let text = "";
        for await (const item of calls.log({ lines: 5 })) text += item.text ?? "";
        return text;
      };
      await eventually("the memory goes on", async () => (await tail()).endsWith("still here\n"));
      const warnings = () => agent.output().match(/recorded in memory only: .*no space left/gi) ?? [];
      await eventually("the log says so", () => warnings().length > 0);
      rmSync(filler);
      await eventually(
        "the files go on",
        async () => {
          await send(cable.board, "again\n");
          await sleep(100);
          return (await calls.status()).record?.problem === null;
        },
        15_000,
      );
      assert.equal(warnings().length, 1);
      await eventually("they have it", async () => (await recorded(directory)).toString().endsWith("again\n"));
    } finally {
      spawnSync("umount", ["-l", directory]);
    }
  },
);
