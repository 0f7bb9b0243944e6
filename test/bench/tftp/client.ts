import { execFileSync } from "node:child_process";
import { randomFillSync } from "node:crypto";
import { once } from "node:events";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { tftpPort } from "../../sim/tftp-peers.ts";
import type { Link } from "./links.ts";

/** What the clients shall do. */
export interface Load {
  /** Of the file that they fetch. */
  readonly bytes: number;
  readonly blksize: number;
  readonly windowsize: number;
  /** At once. */
  readonly clients: number;
  /** Each begins no further transfer after this; 0 is one transfer each. */
  readonly seconds: number;
  /** All is broken off then. */
  readonly limitSeconds: number;
}

/** What came of it; rates in bytes per second. */
export interface Outcome {
  readonly bytes: number;
  readonly rate: number;
  /** Of one client. */
  readonly slowest: number;
  readonly fastest: number;
  /** As agreed with the server. */
  readonly blksize: number;
  readonly windowsize: number;
  /** Why not all transfers were completed; empty if they were. */
  readonly failure: string;
}

/** The clients of client.c, and the folder that all servers serve to them. */
export class Clients {
  readonly #program: string;
  readonly root: string;

  private constructor(program: string, root: string) {
    this.#program = program;
    this.root = root;
  }

  /** Builds the program. @returns undefined where there is no compiler */
  static build(root: string): Clients | undefined {
    const program = join(root, "client");
    try {
      execFileSync("cc", ["-O2", "-o", program, join(import.meta.dirname, "client.c")], { stdio: "inherit" });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
      throw error;
    }
    return new Clients(program, root);
  }

  /** @returns the name of a file of random bytes, made when it is asked for first */
  file(bytes: number): string {
    const path = join(this.root, `${bytes}`);
    if (!existsSync(path)) writeFileSync(path, randomFillSync(Buffer.allocUnsafe(bytes)), { mode: 0o644 });
    return `${bytes}`;
  }

  /** Fetches and compares every byte. */
  async run(link: Link, { bytes, blksize, windowsize, clients, seconds, limitSeconds }: Load): Promise<Outcome> {
    const name = this.file(bytes);
    const words = [link.address, tftpPort, name, join(this.root, name), blksize, windowsize, clients]
      .concat([seconds, limitSeconds])
      .map(String);
    const child = link.clients.spawn(this.#program, words, { stdio: ["ignore", "pipe", "inherit"] });
    let printed = "";
    child.stdout?.on("data", (chunk: Buffer) => (printed += chunk.toString()));
    const [code] = (await once(child, "close")) as [number | null];
    if (code !== 0) throw new Error(`the client ended with ${code}`);
    return JSON.parse(printed) as Outcome;
  }
}
