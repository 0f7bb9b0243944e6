import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { folderWith, startTftp } from "../../sim/tftp.ts";

const run = promisify(execFile);

/** How each client fetches `file` from `port` of 127.0.0.1 to `target`; each runs in the target's folder. */
const clients: Record<string, { tool: string; args: (port: number, file: string, target: string) => string[] }> = {
  "tftp-hpa": {
    tool: "tftp",
    args: (port, file, target) => ["-m", "binary", "127.0.0.1", String(port), "-c", "get", file, target],
  },
  "tftp-hpa over IPv4 only": {
    tool: "tftp",
    args: (port, file, target) => ["-4", "-m", "binary", "127.0.0.1", String(port), "-c", "get", file, target],
  },
  atftp: {
    tool: "atftp",
    args: (port, file, target) => ["--get", "-r", file, "-l", target, "127.0.0.1", String(port)],
  },
  "atftp with options": {
    tool: "atftp",
    args: (port, file, target) =>
      ["--option", "blksize 1468", "--option", "windowsize 8", "--option", "timeout 2", "--option", "tsize 0"].concat(
        ["--get", "-r", file, "-l", target, "127.0.0.1", String(port)], // prettier-ignore
      ),
  },
  curl: {
    tool: "curl",
    args: (port, file, target) => ["-sSf", "-o", target, `tftp://127.0.0.1:${port}/${file}`],
  },
  "curl, block size 1468": {
    tool: "curl",
    args: (port, file, target) =>
      ["-sSf", "--tftp-blksize", "1468", "-o", target, `tftp://127.0.0.1:${port}/${file}`], // prettier-ignore
  },
  "curl without options": {
    tool: "curl",
    args: (port, file, target) => ["-sSf", "--tftp-no-options", "-o", target, `tftp://127.0.0.1:${port}/${file}`],
  },
  "busybox tftp": {
    tool: "busybox",
    args: (port, file, target) => ["tftp", "-g", "-b", "1428", "-r", file, "-l", target, "127.0.0.1", String(port)],
  },
};

for (const [name, { tool, args }] of Object.entries(clients)) {
  test(`${name} fetches files of any size, and learns what is missing`, async (t) => {
    const isMissing = await run("sh", ["-c", 'command -v "$0"', tool]).then(() => false, () => true); // prettier-ignore
    if (isMissing) return t.skip(`${tool} is not installed`);
    const content = randomBytes(3 << 20);
    const files: Record<string, Buffer> = {};
    for (const length of [1, 512, 1428, 1468 * 8, 3 << 20]) files[`f${length}`] = content.subarray(0, length);
    const { port } = await startTftp(t, await folderWith(t, files));
    const folder = await folderWith(t);
    for (const [file, expected] of Object.entries(files)) {
      const target = join(folder, file);
      await run(tool, args(port, file, target), { cwd: folder, timeout: 30_000 });
      assert.ok((await readFile(target)).equals(expected), file);
    }
    // tftp-hpa tells it, and still exits with 0.
    const told = await run(tool, args(port, "nowhere", join(folder, "none")), { cwd: folder, timeout: 30_000 }).then(
      ({ stdout, stderr }) => stdout + stderr,
      (error: { stderr?: string; message: string }) => `${error.stderr} ${error.message}`,
    );
    // 68 is curl's code for it; some versions put an unrelated text there.
    assert.match(told, /not found|\(68\)/i);
  });
}
