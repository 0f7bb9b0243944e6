import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, openSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import type { TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { ReadStream } from "node:tty";
import type { Duplex } from "node:stream";

/** For `skip`: why pty tests cannot run here, or false. */
export const noPtys = spawnSync("socat", ["-V"]).error === undefined ? false : "socat is not installed";

/** A serial cable: what goes in at one end comes out at the other. */
export interface Cable {
  /** Path of the exporter's end. */
  readonly path: string;
  /** The board's end. */
  readonly board: Duplex;
  /** Pulls the cable out: both devices vanish. */
  unplug(): Promise<void>;
}

/** @param again a cable that was unplugged: this one has its paths */
export async function plugCable(t: TestContext, again?: Cable): Promise<Cable> {
  const folder = again === undefined ? await mkdtemp(join(tmpdir(), "jmp-pty-")) : dirname(again.path);
  const [path, far] = [join(folder, "ttyUSB0"), join(folder, "board")];
  const socat = spawn("socat", [`pty,rawer,link=${path}`, `pty,rawer,link=${far}`], { stdio: "ignore" });
  const unplug = async () => {
    if (socat.exitCode !== null || socat.signalCode !== null) return;
    const exited = once(socat, "exit");
    socat.kill();
    await exited;
  };
  t.after(async () => {
    await unplug();
    await rm(folder, { recursive: true, force: true });
  });
  while (!existsSync(path) || !existsSync(far)) await sleep(10);
  const board = new ReadStream(openSync(far, "r+"));
  board.on("error", () => {});
  t.after(() => board.destroy());
  return { path, board, unplug };
}
