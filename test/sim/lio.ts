/** The kernel's target as a folder: what appears by itself in configfs appears here, and what the kernel refuses is refused. */
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Configfs } from "../../net/iscsi/configfs.ts";
import type { Step } from "../../net/iscsi/protocol.ts";

const group = {
  attrib: ["authentication", "generate_node_acls", "demo_mode_write_protect"],
  auth: ["userid", "password"],
  np: [],
  lun: [],
  acls: [],
  ".": ["enable"],
};

/** Directories and attributes that come with a directory, by what its path looks like. */
const comesWith: readonly (readonly [RegExp, Record<string, readonly string[]>])[] = [
  [/^core\/[^/]+\/[^/]+$/, { ".": ["control", "enable", "udev_path", "info"], wwn: ["vpd_unit_serial"] }],
  [/^iscsi\/[^/]+\/tpgt_1$/, group],
  [/\/acls\/[^/]+$/, { auth: ["userid", "password"] }],
  [/\/acls\/[^/]+\/lun_\d+$/, { ".": ["write_protect"] }],
];

export class FakeConfigfs extends Configfs {
  /** All that was made and not removed: directories, and links with what they lead to. */
  readonly made = new Map<string, string>();
  /** Every step, in order. */
  readonly steps: string[] = [];
  /** Errors of steps, by `write iscsi/…`; each comes once. */
  readonly failures = new Map<string, string>();

  constructor(directory: string) {
    super(join(directory, "target"));
    mkdirSync(join(this.root, "core"), { recursive: true });
    writeFileSync(join(directory, "target/version"), "fake");
  }

  /** What an attribute was set to. */
  attribute(path: string): string {
    return readFileSync(join(this.root, path), "utf8");
  }

  override async makeNew(path: string): Promise<boolean> {
    const isNew = await super.makeNew(path);
    if (isNew) this.made.set(path, "");
    return isNew;
  }

  protected override async step(step: Step): Promise<void> {
    const words = `${step.do} ${step.path}`;
    this.steps.push(words);
    const failure = this.failures.get(words);
    this.failures.delete(words);
    if (failure !== undefined) throw refusal(failure, step.path);
    if (step.do === "remove") return this.#remove(step.path);
    const isNew = !this.made.has(step.path);
    await super.step(step);
    if (step.do === "link") this.made.set(step.path, step.to);
    if (step.do === "unlink") this.made.delete(step.path);
    if (step.do === "make" && isNew) {
      this.made.set(step.path, "");
      this.#fill(step.path);
    }
    if (step.do === "write" && step.path.endsWith("/control")) {
      const size = /fd_dev_size=(\d+)/.exec(step.text)?.[1] ?? "";
      const text = `Status: DEACTIVATED  Max Queue Depth: 0\n        TCM FILEIO ID: 0        File: x  Size: ${size}  Mode: Buffered-WCE\n`;
      writeFileSync(join(this.root, step.path, "../info"), text);
    }
  }

  #fill(path: string): void {
    for (const [pattern, contents] of comesWith) {
      if (!pattern.test(path)) continue;
      for (const [directory, attributes] of Object.entries(contents)) {
        mkdirSync(join(this.root, path, directory), { recursive: true });
        for (const name of attributes) writeFileSync(join(this.root, path, directory, name), "");
      }
    }
  }

  #remove(path: string): void {
    if (!this.made.has(path)) throw refusal("ENOENT", path);
    const inside = [...this.made.keys()].some((other) => other.startsWith(`${path}/`));
    if (inside) throw refusal("ENOTEMPTY", path);
    if ([...this.made.values()].includes(path)) throw refusal("EBUSY", path);
    this.made.delete(path);
    rmSync(join(this.root, path), { recursive: true });
  }

  /** Names in a directory of the folder. */
  names(path: string): string[] {
    return readdirSync(join(this.root, path)).sort();
  }
}

function refusal(code: string, path: string): Error {
  const errno = { ENOENT: -2, EBUSY: -16, EINVAL: -22, ENOTEMPTY: -39, EADDRNOTAVAIL: -99 }[code] ?? -5;
  return Object.assign(new Error(`${code}: ${path}`), { code, errno, path });
}
