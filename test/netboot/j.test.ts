import assert from "node:assert/strict";
import { createHash, randomFillSync } from "node:crypto";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { makeBundle, missingForNetboot, startLab } from "../sim/netboot-lab.ts";
import { run } from "../sim/python-client.ts";

const skip = missingForNetboot();
const shared = mkdtempSync(join(tmpdir(), "netboot-"));
let bundle = "";
before(() => {
  if (skip === false) ({ bundle } = makeBundle(shared));
});
after(() => rmSync(shared, { recursive: true, force: true }));

/** What `j power read` says of a board without power. */
const off = /^voltage=0 V/;

const j = (socketPath: string, ...words: string[]) =>
  run(process.execPath, ["dist/j.js", ...words], { env: { JUMPSTARTER_HOST: socketPath }, timeoutMs: 240_000 });

test("j flasher flash puts an image on the board's disk and checks it", { skip }, async (t) => {
  const lab = await startLab(t, bundle, { kind: "user" });
  const { socketPath, agent } = await lab.serve();
  const content = randomFillSync(Buffer.allocUnsafe(3 * 2 ** 20 + 17));
  const sha256 = createHash("sha256").update(content).digest("hex");
  const image = join(lab.directory, "image.raw");
  writeFileSync(image, content);
  execFileSync("xz", ["-q", "-k", image]);

  const refused = await j(socketPath, "flasher", "flash", image, "--os-image-checksum", "0".repeat(64));
  assert.equal(refused.code, 1);
  assert.match(refused.stderr, new RegExp(`has sha256 ${sha256}, not 0000`));
  const unknown = await j(socketPath, "flasher", "flash", image, "--target", "tape", "--retries", "0");
  assert.equal(unknown.code, 1);
  assert.match(unknown.stderr, /tape/);

  const words = ["flasher", "flash", `${image}.xz`, "--target", "/dev/vda", "--retries", "0"];
  const { code, stdout, stderr } = await j(socketPath, ...words);
  assert.equal(code, 0, `${stdout}\n${stderr}\n${agent.stdout()}`);
  assert.equal(stdout, `/dev/vda holds the image: ${content.length} bytes read back, sha256 ${sha256}\n`);
  assert.match(stderr, /load kernel/);
  const disk = await open(lab.disk, "r");
  const held = (await disk.read(Buffer.alloc(content.length), 0, content.length, 0)).buffer;
  await disk.close();
  assert.ok(held.equals(content), "the disk holds the image");
  assert.match((await j(socketPath, "power", "read")).stdout, off, "the board is off");
});

/** Stands for a person at a terminal: asks U-Boot for its version at the first prompt, and leaves at the second. */
const person = `
import os, pty, sys
steps = [(b"3 times", b""), (b"=> ", b"version\\r"), (b"U-Boot 20", b""), (b"=> ", b"\\x02\\x02\\x02")]
pid, fd = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
seen = b""
while True:
    try:
        data = os.read(fd, 1024)
    except OSError:
        break
    if not data: break
    os.write(1, data)
    seen += data
    while steps and steps[0][0] in seen:
        awaited, typed = steps.pop(0)
        seen = seen.split(awaited, 1)[1]
        os.write(fd, typed)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) + (100 if steps else 0))
`;

test("j flasher bootloader-shell ends at U-Boot's prompt, on a terminal only", { skip }, async (t) => {
  const lab = await startLab(t, bundle, { kind: "user" });
  const { socketPath } = await lab.serve();
  const piped = await j(socketPath, "flasher", "bootloader-shell");
  assert.equal(piped.code, 2);
  assert.match(piped.stderr, /needs a terminal/);
  assert.match((await j(socketPath, "power", "read")).stdout, off, "the board was left alone");

  const words = [process.execPath, "dist/j.js", "flasher", "bootloader-shell"];
  const shell = await run("python3", ["-c", person, ...words], {
    env: { JUMPSTARTER_HOST: socketPath },
    timeoutMs: 120_000,
  });
  assert.equal(shell.code, 0, `${shell.stdout}\n${shell.stderr}`);
});
