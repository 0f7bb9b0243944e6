import { execFile, execFileSync, spawn, type ChildProcess } from "node:child_process";
import { writeFileSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
// Plain JavaScript: it also runs before anything is installed.
import { unpackPackages } from "../../../scripts/bundle/debian.mjs";
import { freePort } from "../../sim/agent.ts";
import { cpuSecondsOf } from "../exporters.ts";
import { figure, median } from "../statistics.ts";
import { Cleanup } from "../tftp/cleanup.ts";

const execute = promisify(execFile);
const host = "127.0.0.1";

/** Downloads of one file by curl: ours and nginx, which has sendfile(2), in alternating rounds. */
export async function httpBench({ rounds, fileMiB }: { rounds: number; fileMiB: number }): Promise<void> {
  await new Cleanup().during(async (life) => {
    const directory = await mkdtemp(join(tmpdir(), "jmp-bench-http-"));
    life.after(() => rm(directory, { recursive: true, force: true }));
    await writeFile(join(directory, "file"), Buffer.alloc(fileMiB << 20, 0x5a));
    const servers = [
      { name: "agent", start: startOurs },
      { name: "nginx", start: startNginx },
    ].map(({ name, start }) => ({ name, start, figures: new Map<number, { rate: number[]; cpu: number[] }>() }));
    const running: { server: (typeof servers)[number]; port: number; pid: number }[] = [];
    for (const server of servers) {
      const port = await freePort();
      const child = server.start(port, directory);
      life.after(() => child.kill());
      await answering(child, port);
      running.push({ server, port, pid: child.pid ?? 0 });
    }
    for (let round = 0; round < rounds; round += 1) {
      for (const clients of [1, 16]) {
        for (const { server, port, pid } of round % 2 === 0 ? running : running.toReversed()) {
          const figures = server.figures.get(clients) ?? { rate: [], cpu: [] };
          server.figures.set(clients, figures);
          const [cpuBefore, startMs] = [cpuSecondsOf(pid), performance.now()];
          const url = `http://${host}:${port}/file`;
          await Promise.all(Array.from({ length: clients }, () => execute("curl", ["-sSf", "-o", "/dev/null", url])));
          const bytes = clients * (fileMiB << 20);
          figures.rate.push(bytes / 1e3 / (performance.now() - startMs));
          figures.cpu.push((cpuSecondsOf(pid) - cpuBefore) / (bytes / 1e9));
        }
      }
    }
    console.log(`\n| HTTP, ${fileMiB} MiB by curl | agent | nginx | agent : nginx |\n| --- | ---: | ---: | ---: |`);
    for (const clients of [1, 16]) {
      for (const [what, key] of [
        ["MB/s", "rate"],
        ["server CPU s per GB", "cpu"],
      ] as const) {
        const [ours = NaN, theirs = NaN] = servers.map(({ figures }) => median(figures.get(clients)?.[key] ?? []));
        const who = clients === 1 ? "1 client" : `${clients} clients`;
        console.log(`| ${who}, ${what} | ${figure(ours)} | ${figure(theirs)} | ${figure(ours / theirs)} |`);
      }
    }
  });
}

function startOurs(port: number, root: string): ChildProcess {
  const program = join(import.meta.dirname, "our-server.ts");
  const words = ["--import", "tsx", program, host, String(port), root];
  return spawn(process.execPath, words, { stdio: ["ignore", "ignore", "inherit"] });
}

/** In the foreground and in one process, tuned as its own guide says for static files. */
function startNginx(port: number, root: string): ChildProcess {
  const architecture = execFileSync("dpkg", ["--print-architecture"], { encoding: "utf8" }).trim();
  const program = join(unpackPackages({ nginx: "nginx" }, architecture).nginx, "usr/sbin/nginx");
  const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(
    (name) => `${name}_temp_path ${root}/tmp;`,
  );
  const config = `daemon off; master_process off; pid ${root}/pid; events {}
    http { access_log off; sendfile on; tcp_nopush on; ${temporary.join(" ")}
      server { listen ${host}:${port}; root ${root}; } }`;
  writeFileSync(join(root, "nginx.conf"), config);
  const words = ["-p", root, "-e", "stderr", "-c", join(root, "nginx.conf")];
  return spawn(program, words, { stdio: ["ignore", "ignore", "inherit"] });
}

async function answering(child: ChildProcess, port: number): Promise<void> {
  for (let attempt = 0; attempt < 400 && child.exitCode === null; attempt += 1) {
    const socket = connect(port, host);
    const isOpen = await new Promise((resolve) => {
      socket.once("connect", () => resolve(true)).once("error", () => resolve(false));
    });
    socket.destroy();
    if (isOpen) return;
    await sleep(25);
  }
  throw new Error(`${child.spawnfile} does not listen`);
}
