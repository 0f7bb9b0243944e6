import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { FlashReceipt } from "../../../agent/driver/receipt.ts";
import { scratch } from "../../sim/agent.ts";
import { makeBundle, missingForNetboot, startLab, type Lab } from "../../sim/netboot-lab.ts";
import { clientEnv, clientProgram, run } from "../../sim/python-client.ts";
import { peerVersion } from "../exporters.ts";
import { figure, median } from "../statistics.ts";
import { Cleanup } from "../tftp/cleanup.ts";

/**
 * Whole flashes of a QEMU board by netboot, in alternating rounds: `jmp-agent flash` beside the Python client. Both use our drivers, so
 * that the difference is the client's: the Python exporter pulls bundles only over TLS and has no driver that switches this board. Our
 * flash reads the disk back, the client's does not.
 */
export async function netbootBench({ rounds, sizeMiB }: { rounds: number; sizeMiB: number }): Promise<void> {
  const missing = missingForNetboot();
  if (missing !== false) throw new Error(missing);
  await new Cleanup().during(async (life) => {
    const folder = scratch(life);
    const { bundle } = makeBundle(folder);
    const image = join(folder, "image.raw");
    execFileSync("dd", ["if=/dev/urandom", `of=${image}`, "bs=1M", `count=${sizeMiB}`, "status=none"]);
    const content = readFileSync(image);
    const seconds = { native: [] as number[], written: [] as number[], python: [] as number[] };
    const steps = new Map<string, number[]>();

    const native = async (lab: Lab) => {
      const receiptPath = join(lab.directory, "receipt.json");
      const files = ["--receipt", receiptPath, "--console-log", join(lab.directory, "console.log")];
      const startMs = performance.now();
      const agent = lab.agent("flash", image, "--exporter-config", lab.config, "--retries", "0", ...files);
      if ((await agent.ended()) !== 0) throw new Error(agent.stderr());
      const whole = (performance.now() - startMs) / 1_000;
      const receipt = JSON.parse(readFileSync(receiptPath, "utf8")) as FlashReceipt;
      const verifyMs = receipt.steps.find(({ name }) => name === "verify")?.durationMs ?? 0;
      seconds.native.push(whole);
      seconds.written.push(whole - verifyMs / 1_000);
      for (const { name, durationMs } of receipt.steps) {
        steps.set(name, [...(steps.get(name) ?? []), durationMs / 1_000]);
      }
    };
    const python = async (lab: Lab) => {
      const { socketPath } = await lab.serve();
      const startMs = performance.now();
      const words = ["flasher", "flash", image, "--method", "shell", "--retries", "0"];
      const { code, stdout, stderr } = await run(clientProgram(peerVersion, "j"), words, {
        env: clientEnv(socketPath),
        timeoutMs: 400_000,
      });
      if (code !== 0) throw new Error(`${stdout}\n${stderr}`);
      seconds.python.push((performance.now() - startMs) / 1_000);
    };
    const sides = [native, python];
    for (let round = 0; round < rounds; round += 1) {
      for (const side of round % 2 === 0 ? sides : sides.toReversed()) {
        await life.during(async (turn) => {
          const lab = await startLab(turn, bundle, { kind: "user" }, { diskSize: `${sizeMiB + 64}M` });
          await side(lab);
          const held = readFileSync(lab.disk).subarray(0, content.length);
          if (!held.equals(content)) throw new Error("the disk holds other data than the image");
        });
      }
    }
    const beside = median(seconds.python);
    console.log(
      `\n| ${sizeMiB} MiB by netboot, s | jmp-agent flash | Python client | agent : it |\n| --- | ---: | ---: | ---: |`,
    );
    for (const [what, ours] of [
      ["whole, ours with the disk read back", median(seconds.native)],
      ["without reading back", median(seconds.written)],
    ] as const) {
      console.log(`| ${what} | ${figure(ours)} | ${figure(beside)} | ${figure(ours / beside)} |`);
    }
    for (const [step, values] of steps) console.log(`| ${step} | ${figure(median(values))} | | |`);
  });
}
