import * as z from "zod";
import type { Entry } from "../agent/driver/entry.ts";
import { AgentError, toAgentError } from "../agent/driver/errors.ts";
import type { Logger } from "../agent/driver/log.ts";
import type { HostNeeds, OpenContext } from "../agent/driver/driver.ts";
import { boundAddresses, hostPort, isWildcard, ownAddress } from "./addresses.ts";
import { openUploads, type Uploads } from "./uploads.ts";
import { parseBoard, type View } from "./views.ts";

/** What the TFTP and the HTTP driver have in common: their config, their `storage`, and how they are switched. */

export const hostConfig = z
  .union([z.string(), z.array(z.string()).min(1)])
  .nullish()
  .transform((host) => (typeof host === "string" ? [host] : (host ?? [])).filter((one) => one !== ""))
  .describe(
    "address, or list of addresses, to listen on and to tell to boards; %IF: those of an interface; empty: the host's own address",
  );

export const advertiseConfig = z
  .string()
  .min(1)
  .nullish()
  .describe("address to tell to boards instead of the first one that is listened on");

export const boardsConfig = z
  .union([z.string().transform((board) => [board]), z.array(z.string())])
  .nullish()
  .transform((boards, context) =>
    (boards ?? []).flatMap((text) => {
      try {
        return [parseBoard(text)];
      } catch (error) {
        const { message, hint } = toAgentError(error);
        context.addIssue({ code: "custom", message: `${message}: ${hint}` });
        return [];
      }
    }),
  )
  .describe(
    "the boards that see these files, by address, network (10.0.0.0/24) or MAC address; empty: every board that no other " +
      "exporter of the port names",
  );

export const globalRootConfig = z
  .string()
  .min(1)
  .nullish()
  .describe("folder that boards may read as well, for files that are not in root_dir; nothing is ever written to it");

export const uploadsConfig = z
  .strictObject({
    dir: z.string().min(1).describe("folder for what boards send; made if missing"),
    max_bytes: z.coerce
      .number()
      .int()
      .positive()
      .default(64 << 20)
      .describe("largest file"),
    max_files: z.coerce.number().int().positive().default(10_000).describe("how many may lie there"),
  })
  .nullish()
  .describe("boards may leave new files: TFTP put, HTTP PUT /uploads/NAME; what exists is never replaced");

/** Makes the folder for uploads, where there may be any. */
export async function uploadsOf({
  uploads,
}: {
  readonly uploads?: z.output<typeof uploadsConfig>;
}): Promise<Uploads | undefined> {
  if (!uploads) return undefined;
  const opened = { folder: uploads.dir, maxBytes: uploads.max_bytes, maxFiles: uploads.max_files };
  await openUploads(opened);
  return opened;
}

export function portConfig(standard: number) {
  return z.coerce
    .number()
    .int()
    .min(0)
    .max(65_535)
    .default(standard)
    .describe("port to listen on; 0: one that is free");
}

/** The child that every boot server brings along: clients put their files there. */
export function storageChild(config: { root_dir: string; remove_created_on_close: boolean }): Record<string, Entry> {
  return {
    storage: {
      type: "jumpstarter_driver_opendal.driver.Opendal",
      config: {
        scheme: "fs",
        kwargs: { root: config.root_dir },
        remove_created_on_close: config.remove_created_on_close,
      },
    },
  };
}

/** What a boot server wants of the host. */
export function bootServerNeeds(
  protocol: "tcp" | "udp",
  config: {
    readonly port: number;
    readonly host: readonly string[];
    readonly root_dir: string;
    readonly uploads?: z.output<typeof uploadsConfig>;
  },
): HostNeeds {
  return {
    ports: [{ protocol, port: config.port, hosts: config.host }],
    directories: [config.root_dir, ...(config.uploads ? [config.uploads.dir] : [])],
  };
}

interface ViewConfig {
  readonly root_dir: string;
  readonly global_root_dir?: string | null | undefined;
  readonly boards: View["boards"];
}

/** What an exporter shows by its boot server driver. */
export function viewOfDriver(context: Omit<OpenContext<ViewConfig>, "shared">): View {
  const { config, exporter, path, log } = context;
  const roots = [config.root_dir, config.global_root_dir].filter((root) => typeof root === "string");
  const ended: View["ended"] = (transfer) => context.tell({ kind: "transfer", path, transfer });
  return { name: `${path} of ${exporter}`, roots, boards: config.boards, log, ended };
}

/** A server that listens. `stop` frees the port before it returns. */
export interface Listening {
  readonly port: number;
  stop(): void;
}

export interface BootServerOptions {
  /** For messages: `TFTP` or `HTTP`. */
  readonly name: string;
  readonly hosts: readonly string[];
  readonly advertise: string | null | undefined;
  readonly log: Logger;
  readonly listen: (hosts: readonly string[]) => Promise<Listening>;
}

/** At most one running server, however starts and stops overlap. */
export class BootServer {
  readonly #options: BootServerOptions;
  #running: Listening | undefined;
  /** Counts stops: a start that was overtaken by one ends what it began. */
  #stops = 0;
  #starting: { readonly stops: number; readonly done: Promise<void> } | undefined;
  #own: Promise<string | undefined> | undefined;

  constructor(options: BootServerOptions) {
    this.#options = options;
  }

  /** The port that is bound; undefined while the server is stopped. */
  get port(): number | undefined {
    return this.#running?.port;
  }

  /** Resolves when the port is bound; at once when it already is. @throws AgentError E_IO */
  async start(): Promise<void> {
    const { name, log } = this.#options;
    if (this.#running !== undefined) return log.warn(`${name} server is already running`);
    if (this.#starting?.stops === this.#stops) return this.#starting.done;
    // A start that was overtaken by a stop may still hold the port.
    const former = this.#starting?.done.catch(() => {});
    const starting = { stops: this.#stops, done: this.#start(former) };
    this.#starting = starting;
    try {
      await starting.done;
    } finally {
      if (this.#starting === starting) this.#starting = undefined;
    }
  }

  async #start(former: Promise<void> | undefined): Promise<void> {
    const { name, hosts, listen, log } = this.#options;
    const stopsBefore = this.#stops;
    await former;
    // The address may have changed since it was asked for the last time.
    this.#own = undefined;
    let server: Listening;
    try {
      server = await listen(hosts.length > 0 ? hosts : [(await this.#ownAddress()) ?? "0.0.0.0"]);
    } catch (thrown) {
      const error = toAgentError(thrown);
      throw new AgentError(error.code, `Failed to start ${name} server: ${error.message}`, {
        cause: error,
        hint: error.hint,
      });
    }
    if (this.#stops !== stopsBefore) {
      server.stop();
      throw new AgentError("E_CANCELLED", `${name} server was stopped while it started`);
    }
    this.#running = server;
    log.info(`${name} server started on ${hostPort(await this.host(), server.port)}`);
  }

  /** Frees the port before it returns. @returns whether there was anything to stop. */
  stop(): boolean {
    this.#stops += 1;
    const server = this.#running;
    this.#running = undefined;
    server?.stop();
    if (server !== undefined) this.#options.log.info(`${this.#options.name} server stopped`);
    return server !== undefined || this.#starting !== undefined;
  }

  /** The address that boards are told. */
  async host(): Promise<string> {
    const { advertise, hosts } = this.#options;
    if (advertise) return advertise;
    const [first] = hosts;
    if (first !== undefined && !isWildcard(first)) return first;
    if (first?.startsWith("%")) return (await boundAddresses([first])).addresses[0] ?? "0.0.0.0";
    return (await this.#ownAddress()) ?? first ?? "0.0.0.0";
  }

  #ownAddress(): Promise<string | undefined> {
    this.#own ??= ownAddress().then((address) => {
      if (address === undefined) this.#options.log.warn("no address of this host found, using 0.0.0.0");
      return address;
    });
    return this.#own;
  }
}
