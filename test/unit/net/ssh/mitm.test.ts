// Real ssh, scp and sftp through our server to a real sshd.
import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { connect as connectTcp, type Socket } from "node:net";
import { join } from "node:path";
import { after, before, describe, test, type TestContext } from "node:test";
import type { LogRecord } from "../../../../agent/driver/log.ts";
import { createExporter, type Exporter } from "../../../../agent/session/exporter.ts";
import { network } from "../../../../net/sockets/interface.ts";
import { freePort, scratch } from "../../../sim/agent.ts";
import { forwardPort } from "../../../sim/forward.ts";
import { run, type Finished } from "../../../sim/python-client.ts";
import { eventually } from "../../../sim/rig.ts";
import { makeKey, noSshd, startListener, startSshd, type Sshd } from "../../../sim/sshd.ts";

interface Gate {
  readonly port: number;
  readonly exporter: Exporter;
  readonly records: LogRecord[];
  readonly log: () => string;
}

type Cleanup = Pick<TestContext, "after">;

/** Our driver in front of a TCP port, reached through a local one. */
async function gate(t: Cleanup, tcpPort: number, config: Record<string, unknown>): Promise<Gate> {
  const exporter = await createExporter({
    name: `ssh-${randomBytes(4).toString("hex")}`,
    export: {
      mitm: {
        type: "jumpstarter_driver_ssh_mitm.driver.SSHMITM",
        config,
        children: {
          tcp: { type: "jumpstarter_driver_network.driver.TcpNetwork", config: { host: "127.0.0.1", port: tcpPort } },
        },
      },
    },
  });
  t.after(() => exporter.close());
  const records: LogRecord[] = [];
  exporter.logs.subscribe((record) => records.push(record));
  const port = await forwardPort(t, () => exporter.calls("mitm", network).connect());
  return { port, exporter, records, log: () => records.map(({ message }) => message).join("\n") };
}

const trusting = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"];
const quiet = ["-F", "/dev/null", "-o", "LogLevel=ERROR", "-o", "BatchMode=yes", "-o", "IdentityFile=none"];

const ssh = (port: number, words: readonly string[], input = ""): Promise<Finished> =>
  run("ssh", [...trusting, ...quiet, "-p", String(port), ...words], { input, timeoutMs: 20_000 });

/** For what must end by a signal, or go on for a while. */
function startSsh(t: Cleanup, port: number, words: readonly string[]): ChildProcess {
  const child = spawn("ssh", [...trusting, ...quiet, "-p", String(port), ...words]);
  t.after(() => child.kill("SIGKILL"));
  return child;
}

/** What it prints first. Rejects when it ends without a word. */
async function firstOutput(child: ChildProcess): Promise<string> {
  let complaints = "";
  child.stderr?.on("data", (chunk: Buffer) => (complaints += chunk.toString()));
  const silent = once(child, "close").then(() => Promise.reject(new Error(`ssh ended without output: ${complaints}`)));
  const [chunk] = (await Promise.race([once(child.stdout as NodeJS.ReadableStream, "data"), silent])) as [Buffer];
  return chunk.toString();
}

describe("a board's sshd behind our server", { skip: noSshd }, () => {
  const cleanups: (() => unknown)[] = [];
  const whole: Cleanup = { after: (done: unknown) => void cleanups.push(done as () => unknown) };
  let sshd: Sshd;
  let open: Gate;
  let folder: string;

  before(async () => {
    // Machines that run tests have keys of their own in no place of these.
    process.env["STATE_DIRECTORY"] = scratch(whole);
    folder = scratch(whole);
    sshd = await startSshd(whole);
    open = await gate(whole, sshd.port, { ssh_identity: sshd.key });
  });

  after(async () => {
    for (const done of cleanups.reverse()) await done();
  });

  const onBoard = (...words: string[]) => ssh(open.port, ["127.0.0.1", ...words]);

  test("output, errors and exit code each arrive as what they are", async () => {
    const { code, stdout, stderr } = await onBoard("echo out; echo err >&2; exit 7");
    assert.deepEqual([code, stdout, stderr], [7, "out\n", "err\n"]);
  });

  test("a command that a signal kills is told as killed", async () => {
    // OpenSSH's own client hides the signal behind 255; its debug output has it.
    const { code, stderr } = await run(
      "ssh",
      [...trusting, "-F", "/dev/null", "-v", "-p", String(open.port), "127.0.0.1", "kill -TERM $$"],
      { timeoutMs: 20_000 },
    );
    assert.equal(code, 255);
    assert.match(stderr, /rtype exit-signal/);
  });

  test("what comes after the client's end of input is not cut off", async () => {
    const { code, stdout, stderr } = await ssh(
      open.port,
      ["127.0.0.1", "cat; sleep 0.3; echo late; echo later >&2; exit 3"],
      "one\ntwo\n",
    );
    assert.deepEqual([code, stdout, stderr], [3, "one\ntwo\nlate\n", "later\n"]);
  });

  test("what goes on after the board's end of output is not cut off", async () => {
    const input = "x".repeat(3_000_000);
    const { code, stderr } = await ssh(open.port, ["127.0.0.1", "exec 1>&-; sleep 0.2; wc -c >&2"], input);
    assert.deepEqual([code, stderr.trim()], [0, "3000000"]);
  });

  test("both outputs arrive whole while each waits for the other's room", async () => {
    // Both are longer than any window; nobody reads one before the other.
    const script = "seq 1 400000 & seq 1 400000 | sed s/^/e/ >&2; wait";
    const { code, stdout, stderr } = await onBoard(script);
    assert.equal(code, 0);
    const lines = Array.from({ length: 400_000 }, (_, index) => `${index + 1}\n`);
    assert.ok(stdout === lines.join(""));
    assert.ok(stderr === lines.map((line) => `e${line}`).join(""));
  });

  test("variables that the board accepts go there", async () => {
    const words = [...trusting, ...quiet, "-o", "SendEnv=JMP_*", "-p", String(open.port), "127.0.0.1"];
    const { stdout } = await run("ssh", [...words, 'echo "$JMP_WORD"'], { env: { JMP_WORD: "hello there" } });
    assert.equal(stdout, "hello there\n");
  });

  test("a terminal whose size nobody knows gets a usual one", async () => {
    const { code, stdout } = await ssh(open.port, ["-tt", "127.0.0.1", "stty size; echo $TERM; exit 4"]);
    assert.deepEqual([code, stdout.split(/\s*\r?\n/)[0]], [4, "24 80"]);
  });

  test("scp and sftp both ways, also while keys are exchanged anew", async () => {
    const file = join(folder, "file");
    const bytes = randomBytes(12 * 1024 * 1024);
    writeFileSync(file, bytes);
    const words = [...trusting, ...quiet, "-o", "RekeyLimit=2M", "-P", String(open.port)];
    const up = await run("scp", [...words, file, `127.0.0.1:${folder}/up`]);
    assert.equal(up.code, 0, up.stderr);
    const old = await run("scp", ["-O", ...words, `127.0.0.1:${folder}/up`, `${folder}/down`]);
    assert.equal(old.code, 0, old.stderr);
    const digest = (path: string) => createHash("sha256").update(readFileSync(path)).digest("hex");
    assert.equal(digest(`${folder}/down`), createHash("sha256").update(bytes).digest("hex"));
    const sftp = await run("sftp", [...words, "-b", "-", "127.0.0.1"], {
      input: `rename ${folder}/up ${folder}/renamed\nls -l ${folder}/renamed\n`,
    });
    assert.equal(sftp.code, 0, sftp.stderr);
    assert.match(sftp.stdout, /12582912 .*renamed/);
  });

  test("ports are not forwarded, and nothing else either, unless it is allowed", async (t) => {
    const [denied, allowed] = [await freePort(), await freePort()];
    const echo = await startListener(t, (socket) => socket.end("from the board's side\n"));
    const forward = (port: number) => ["-L", `127.0.0.1:${port}:127.0.0.1:${echo}`, "127.0.0.1", "echo up; cat"];
    const first = startSsh(t, open.port, forward(denied));
    await firstOutput(first);
    assert.equal(await readAll(connectTcp(denied, "127.0.0.1")), "");
    first.kill();

    const free = await gate(t, sshd.port, { ssh_identity: sshd.key, allow_forwarding: true });
    const second = startSsh(t, free.port, forward(allowed));
    await firstOutput(second);
    assert.equal(await readAll(connectTcp(allowed, "127.0.0.1")), "from the board's side\n");
    second.kill();

    const remote = ["-o", "ExitOnForwardFailure=yes", "-R", `0:127.0.0.1:${echo}`, "127.0.0.1", "echo up"];
    const refused = await ssh(open.port, remote);
    assert.deepEqual([refused.code, refused.stdout], [255, ""]);
    const agent = await ssh(open.port, ["-A", "127.0.0.1", 'echo "agent:$SSH_AUTH_SOCK"']);
    assert.equal(agent.stdout, "agent:\n");
  });

  test("a remote port that is allowed comes back to the client", async (t) => {
    const free = await gate(t, sshd.port, { ssh_identity: sshd.key, allow_forwarding: true });
    const echo = await startListener(t, (socket) => socket.end("from the client's side\n"));
    const port = await freePort();
    const child = startSsh(t, free.port, ["-R", `127.0.0.1:${port}:127.0.0.1:${echo}`, "127.0.0.1", "echo up; cat"]);
    await firstOutput(child);
    assert.equal(await readAll(connectTcp(port, "127.0.0.1")), "from the client's side\n");
    child.kill();
  });

  test("with a default user, others are refused before the board hears of them", async (t) => {
    const only = await gate(t, sshd.port, { ssh_identity: sshd.key, default_username: sshd.user });
    const logins = sshd.log().split("Connection from").length;
    const other = await ssh(only.port, ["-l", "somebody", "127.0.0.1", "true"]);
    assert.equal(other.code, 255);
    assert.match(other.stderr, /Permission denied/);
    assert.match(only.log(), new RegExp(`the user is '${sshd.user}', not 'somebody'`));
    assert.equal(sshd.log().split("Connection from").length, logins);
    const right = await ssh(only.port, ["-l", sshd.user, "127.0.0.1", "echo yes"]);
    assert.equal(right.stdout, "yes\n", right.stderr);
  });

  test("our host key outlives the exporter; the board's is never shown", async (t) => {
    const known = join(folder, "known");
    const pinning = [
      "-o",
      `UserKnownHostsFile=${known}`,
      "-o",
      "UpdateHostKeys=yes",
      ...quiet,
      "-p",
      String(open.port),
    ];
    const first = await run("ssh", ["-o", "StrictHostKeyChecking=accept-new", ...pinning, "127.0.0.1", "true"]);
    assert.equal(first.code, 0, first.stderr);
    const names = readFileSync(known, "utf8").trim().split("\n");
    assert.equal(names.length, 1, "UpdateHostKeys has brought keys of the board");
    const again = await createExporter({
      name: open.exporter.name,
      export: {
        other: {
          type: "jumpstarter_driver_ssh_mitm.driver.SSHMITM",
          config: { ssh_identity: sshd.key },
          children: {
            tcp: {
              type: "jumpstarter_driver_network.driver.TcpNetwork",
              config: { host: "127.0.0.1", port: sshd.port },
            },
          },
        },
      },
    });
    t.after(() => again.close());
    const port = await forwardPort(t, () => again.calls("other", network).connect());
    const key = names[0]?.split(" ").slice(1).join(" ") ?? "";
    writeFileSync(known, `[127.0.0.1]:${port} ${key}\n`);
    const strict = ["-o", "StrictHostKeyChecking=yes", "-o", `UserKnownHostsFile=${known}`, ...quiet];
    const second = await run("ssh", [...strict, "-p", String(port), "127.0.0.1", "echo same"]);
    assert.equal(second.stdout, "same\n", second.stderr);
  });

  test("the board's host key may be pinned", async (t) => {
    const file = join(folder, "board_keys");
    // Of its two keys it shows the one that is pinned.
    const pinned = await gate(t, sshd.port, { ssh_identity: sshd.key, known_hosts: `board ${sshd.hostKeys.ecdsa}\n` });
    assert.equal((await ssh(pinned.port, ["127.0.0.1", "echo right"])).stdout, "right\n", pinned.log());
    const stranger = makeKey(folder, "stranger", "ed25519");
    writeFileSync(file, `# by hand\nboard ${readFileSync(`${stranger}.pub`, "utf8")}`);
    const wrong = await gate(t, sshd.port, { ssh_identity: sshd.key, known_hosts_file: file });
    const { code, stderr } = await ssh(wrong.port, ["127.0.0.1", "true"]);
    assert.equal(code, 255);
    assert.match(stderr, /the board's host key SHA256:\S+ is none of those in known_hosts/);
    assert.match(wrong.log(), /is none of those in known_hosts/);
  });

  test("keys of all usual kinds; one that the board does not know, and one that is none, are told", async (t) => {
    const authorized = join(sshd.directory, "authorized_keys");
    const before = readFileSync(authorized, "utf8");
    t.after(() => writeFileSync(authorized, before));
    for (const type of ["rsa", "ecdsa"]) {
      const path = makeKey(folder, `board_${type}`, type);
      writeFileSync(authorized, readFileSync(`${path}.pub`, "utf8"), { flag: "a" });
      const through = await gate(t, sshd.port, { ssh_identity_file: path });
      assert.equal((await ssh(through.port, ["127.0.0.1", "echo in"])).stdout, "in\n", through.log());
    }
    const unknown = await gate(t, sshd.port, { ssh_identity_file: makeKey(folder, "unknown", "ed25519") });
    const { code, stderr } = await ssh(unknown.port, ["-l", sshd.user, "127.0.0.1", "true"]);
    assert.equal(code, 255);
    assert.match(stderr, new RegExp(`the board refuses the exporter's key for user '${sshd.user}'`));
    const none = await gate(t, sshd.port, { ssh_identity: "-----BEGIN SECRET WORDS-----" });
    const second = await ssh(none.port, ["127.0.0.1", "true"]);
    assert.match(second.stderr, /the exporter's key for the board is not usable/);
    assert.ok(!`${second.stderr}${none.log()}`.includes("SECRET"));
    const away = await gate(t, sshd.port, { ssh_identity_file: join(folder, "nowhere") });
    const third = await ssh(away.port, ["127.0.0.1", "true"]);
    assert.match(third.stderr, /Failed to read ssh_identity_file '.*nowhere': .*No such file/);
    for (const { records } of [unknown, none, away]) {
      assert.ok(!JSON.stringify(records).includes("PRIVATE KEY"));
    }
  });

  test("the end of the lease ends what runs, on both sides", async (t) => {
    const own = await gate(t, sshd.port, { ssh_identity: sshd.key });
    const timers = () => process.getActiveResourcesInfo().filter((kind) => kind === "Timeout").length;
    const before = timers();
    const child = startSsh(t, own.port, ["127.0.0.1", "echo $$; exec cat"]);
    const ended = once(child, "exit");
    const pid = (await firstOutput(child)).trim();
    assert.ok(existsSync(`/proc/${pid}`));
    await own.exporter.tree.release();
    const [code] = (await ended) as [number];
    assert.equal(code, 255);
    await eventually("the command on the board has ended", () => !existsSync(`/proc/${pid}`));
    await eventually("nothing of the connection is left", () => timers() <= before);
  });

  test("a client that says nothing does not stay", async (t) => {
    const short = await gate(t, sshd.port, { ssh_identity: sshd.key, channel_timeout: 0.4 });
    assert.match(await readAll(connectTcp(short.port, "127.0.0.1")), /^SSH-2.0-jumpstarter-agent\r\n/);
    assert.match(short.log(), /the client does not log in/);
    const idle = await ssh(short.port, ["-N", "127.0.0.1"]);
    assert.equal(idle.code, 255);
    assert.match(short.log(), /the client does not say what is to run/);
    // A command that runs is not idle, however quiet it is.
    assert.equal((await ssh(short.port, ["127.0.0.1", "sleep 0.8; echo done"])).stdout, "done\n");
  });

  test("a client that speaks something else is sent away", async () => {
    const socket = connectTcp(open.port, "127.0.0.1");
    socket.write("GET / HTTP/1.1\r\nHost: board\r\n\r\n");
    assert.match(await readAll(socket), /^SSH-2.0-/);
  });
});

describe("a board that is no sshd", { skip: noSshd }, () => {
  const key = "-----BEGIN OPENSSH PRIVATE KEY-----";

  /** What a client sees of it, and how long that took. */
  async function attempt(t: TestContext, port: number, config: Record<string, unknown> = {}) {
    const identity = makeKey(scratch(t), "id", "ed25519");
    const through = await gate(t, port, { ssh_identity_file: identity, connect_timeout: 0.5, ...config });
    const started = performance.now();
    const finished = await ssh(through.port, ["127.0.0.1", "true"]);
    assert.ok(performance.now() - started < 5_000, "it hangs");
    assert.equal(finished.code, 255);
    assert.ok(!through.log().includes(key));
    await through.exporter.close();
    return finished.stderr;
  }

  test("refuses connections", async (t) => {
    assert.match(await attempt(t, await freePort()), /the board cannot be reached: .*Connection refused/);
  });

  test("says nothing", async (t) => {
    assert.match(await attempt(t, await startListener(t, () => {})), /no login on the board within 0.5 s/);
  });

  test("hangs up", async (t) => {
    assert.match(
      await attempt(t, await startListener(t, (socket) => socket.end())),
      /the connection to the board broke/,
    );
  });

  test("greets with garbage", async (t) => {
    const noise = await startListener(t, (socket) => void socket.write(randomBytes(200_000)));
    assert.match(await attempt(t, noise), /the connection to the board broke|no login on the board/);
    const lines = await startListener(t, (socket) => {
      const say = () => void socket.write("welcome to nothing\r\n".repeat(100));
      say();
      const more = setInterval(say, 1);
      socket.on("close", () => clearInterval(more));
    });
    assert.match(await attempt(t, lines), /greeting lines exceeded|no login on the board/);
  });

  test("says that it is SSH, and then garbage", async (t) => {
    const liar = await startListener(t, (socket) => {
      socket.write("SSH-2.0-liar\r\n");
      socket.write(Buffer.alloc(4096, 0xee));
    });
    assert.match(await attempt(t, liar), /the connection to the board broke/);
  });
});

describe("a board that goes", { skip: noSshd }, () => {
  test("in mid-command: the client's connection ends, with a reason", async (t) => {
    const sshd = await startSshd(t);
    const through = await gate(t, sshd.port, { ssh_identity: sshd.key });
    const child = startSsh(t, through.port, ["127.0.0.1", "echo $PPID; cat"]);
    let stderr = "";
    child.stderr?.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
    process.kill(Number(await firstOutput(child)), "SIGKILL");
    const [code] = (await once(child, "close")) as [number];
    assert.equal(code, 255);
    assert.match(stderr, /the board closed the connection|the connection to the board broke/);
  });

  test("without a word: it is asked, and given up", async (t) => {
    const sshd = await startSshd(t);
    // A cable that is pulled: what is between us and sshd stops carrying anything.
    let pulled = false;
    const cable = await startListener(t, (socket) => {
      const far = connectTcp(sshd.port, "127.0.0.1");
      far.on("error", () => {});
      socket.on("data", (bytes) => void (pulled || far.write(bytes)));
      far.on("data", (bytes) => void (pulled || socket.write(bytes)));
      socket.on("close", () => far.destroy());
    });
    const through = await gate(t, cable, { ssh_identity: sshd.key, keepalive_interval: 0.1 });
    const child = startSsh(t, through.port, ["127.0.0.1", "echo up; cat"]);
    let stderr = "";
    child.stderr?.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
    await firstOutput(child);
    pulled = true;
    const [code] = (await once(child, "close")) as [number];
    assert.equal(code, 255);
    assert.match(stderr, /the board does not answer any more/);
  });
});

async function readAll(socket: Socket): Promise<string> {
  let text = "";
  socket.on("data", (chunk: Buffer) => (text += chunk.toString("latin1")));
  socket.on("error", () => {});
  await once(socket, "close");
  return text;
}
