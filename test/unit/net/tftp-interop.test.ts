import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { folderWith, startTftp } from "../../sim/tftp.ts";

const run = promisify(execFile);

type Words = (port: number, file: string, local: string) => string[];

/** How each client fetches `file` from `port` of 127.0.0.1 to `target`; each runs in the target's folder. */
const clients: Record<string, { tool: string; args: Words }> = {
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
  "atftp with a window of 16": {
    tool: "atftp",
    args: (port, file, target) =>
      ["--option", "blksize 1428", "--option", "windowsize 16"].concat(
        ["--get", "-r", file, "-l", target, "127.0.0.1", String(port)], // prettier-ignore
      ),
  },
  "tftp-hpa over IPv6": {
    tool: "tftp",
    args: (port, file, target) => ["-6", "-m", "binary", "::1", String(port), "-c", "get", file, target],
  },
  "curl over IPv6": {
    tool: "curl",
    args: (port, file, target) => ["-sSf", "-g", "-o", target, `tftp://[::1]:${port}/${file}`],
  },
  "atftp over IPv6": {
    tool: "atftp",
    args: (port, file, target) => ["--get", "-r", file, "-l", target, "::1", String(port)],
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

const isMissing = (tool: string) => run("sh", ["-c", 'command -v "$0"', tool]).then(() => false, () => true); // prettier-ignore

for (const [name, { tool, args }] of Object.entries(clients)) {
  test(`${name} fetches files of any size, and learns what is missing`, async (t) => {
    if (await isMissing(tool)) return t.skip(`${tool} is not installed`);
    const content = randomBytes(3 << 20);
    const files: Record<string, Buffer> = {};
    for (const length of [1, 512, 1428, 1468 * 8, 3 << 20]) files[`f${length}`] = content.subarray(0, length);
    const { port } = await startTftp(t, await folderWith(t, files), { hosts: ["127.0.0.1", "::1"] });
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

/** How each client sends `local` to `port` as `file`. */
const senders: Record<string, { tool: string; args: Words }> = {
  "tftp-hpa": {
    tool: "tftp",
    args: (port, file, local) => ["-m", "binary", "127.0.0.1", String(port), "-c", "put", local, file],
  },
  "tftp-hpa over IPv6": {
    tool: "tftp",
    args: (port, file, local) => ["-6", "-m", "binary", "::1", String(port), "-c", "put", local, file],
  },
  atftp: {
    tool: "atftp",
    args: (port, file, local) => ["--put", "-l", local, "-r", file, "127.0.0.1", String(port)],
  },
  "atftp with a window of 8": {
    tool: "atftp",
    args: (port, file, local) =>
      ["--option", "blksize 1428", "--option", "windowsize 8", "--option", "tsize 0"].concat(
        ["--put", "-l", local, "-r", file, "127.0.0.1", String(port)], // prettier-ignore
      ),
  },
  curl: { tool: "curl", args: (port, file, local) => ["-sSf", "-T", local, `tftp://127.0.0.1:${port}/${file}`] },
  "busybox tftp": {
    tool: "busybox",
    args: (port, file, local) => ["tftp", "-p", "-b", "1428", "-l", local, "-r", file, "127.0.0.1", String(port)],
  },
};

for (const [name, { tool, args }] of Object.entries(senders)) {
  test(`${name} sends files of any size, and learns that one exists`, async (t) => {
    if (await isMissing(tool)) return t.skip(`${tool} is not installed`);
    const taken = await folderWith(t);
    const uploads = { folder: taken, maxBytes: 4 << 20 };
    const { port } = await startTftp(t, await folderWith(t), { hosts: ["127.0.0.1", "::1"], uploads });
    const content = randomBytes(3 << 20);
    for (const length of [1, 512, 1428, 1468 * 8, 3 << 20]) {
      const folder = await folderWith(t, { local: content.subarray(0, length) });
      await run(tool, args(port, `f${length}`, "local"), { cwd: folder, timeout: 30_000 });
      assert.ok((await readFile(join(taken, `f${length}`))).equals(content.subarray(0, length)), `${length} bytes`);
    }
    const folder = await folderWith(t, { local: "other" });
    const told = await run(tool, args(port, "f512", "local"), { cwd: folder, timeout: 30_000 }).then(
      ({ stdout, stderr }) => stdout + stderr,
      (error: { stderr?: string; message: string }) => `${error.stderr} ${error.message}`,
    );
    // 73 is curl's code for it.
    assert.match(told, /already exists|\(73\)/i);
    assert.equal((await readFile(join(taken, "f512"))).length, 512);
  });
}
