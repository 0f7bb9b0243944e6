import { AgentError } from "../agent/driver/errors.ts";
import type { Logger } from "../agent/driver/log.ts";
import { hostPort } from "./addresses.ts";
import { architectures, type Architecture, type BootFiles, type BootRules } from "./dhcp/boot-choice.ts";
import type { DhcpConfigInput } from "./dhcp/config.ts";
import type { Lease } from "./dhcp/leases.ts";
import { DhcpServer } from "./dhcp/server.ts";
import { HttpServer } from "./http/server.ts";
import { TftpServer } from "./tftp/server.ts";
import type { RunningTransfer } from "../agent/driver/shown.ts";
import type { Uploads } from "./uploads.ts";
import type { View } from "./views.ts";

export interface BootServiceOptions {
  /** Folder that boards may read. */
  readonly root: string;
  readonly uploads: Uploads | undefined;
  /** Network interface of the boards; without one there is no DHCP. */
  readonly interface: string | undefined;
  /** Addresses or names to listen on; empty: those of the interface, or all. */
  readonly hosts: readonly string[];
  readonly tftpPort: number;
  /** Undefined: no HTTP. */
  readonly httpPort: number | undefined;
  /** Largest RFC 7440 window of TFTP. */
  readonly windowLimit: number;
  readonly dhcp: BootDhcp | undefined;
  readonly log: Logger;
  /** Told when a transfer is over. */
  readonly ended?: View["ended"] | undefined;
}

/** DHCP as a boot service needs it; see dhcp/config.ts. */
export type BootDhcp = Omit<DhcpConfigInput, "interface" | "boot"> & {
  readonly boot: Pick<BootRules, "file" | "architectures" | "ipxe" | "boards">;
};

/** TFTP, HTTP and DHCP for the boards of one network, without an exporter. */
export interface BootService {
  /** What it listens on, for people. */
  readonly endpoints: readonly string[];
  running(): RunningTransfer[];
  leases(): Lease[];
  stop(): Promise<void>;
}

/** @throws AgentError of whichever server cannot start; none is left running then. */
export async function startBootService(options: BootServiceOptions): Promise<BootService> {
  const { root, uploads, log, interface: device } = options;
  const hosts = options.hosts.length > 0 ? options.hosts : [device === undefined ? "::" : `%${device}`];
  const view: View = { name: "boot", roots: [root], boards: [], uploads, log, ended: options.ended };
  const endpoints: string[] = [];
  const stops: (() => void | Promise<void>)[] = [];
  const stop = async () => {
    for (const one of stops.splice(0).reverse()) await one();
  };
  try {
    const tftp = new TftpServer(options.tftpPort);
    const tftpServed = await tftp.serve({ ...view, limits: { windowSize: options.windowLimit } }, hosts);
    stops.push(() => tftpServed.stop());
    endpoints.push(...tftp.addresses.map((address) => `tftp://${hostPort(address, tftp.port)}/`));
    const http = options.httpPort === undefined ? undefined : new HttpServer(options.httpPort);
    if (http !== undefined) {
      const httpServed = await http.serve(view, hosts);
      stops.push(() => httpServed.stop());
      endpoints.push(...http.addresses.map((address) => `http://${hostPort(address, http.port)}/`));
    }
    let dhcp: DhcpServer | undefined;
    if (options.dhcp !== undefined) {
      if (device === undefined) throw new AgentError("E_USAGE", "DHCP needs the interface that the boards are on");
      const { boot, ...rest } = options.dhcp;
      // Which address is ours there is known when the server has looked.
      dhcp = await DhcpServer.start({ ...rest, interface: device }, log);
      stops.push(async () => await dhcp?.stop());
      const { address } = dhcp.subnet;
      dhcp.update({ boot: http === undefined ? boot : withUrls(boot, `http://${hostPort(address, http.port)}/`) });
      endpoints.push(`${rest.mode === "proxy" ? "proxyDHCP" : "DHCP"} on ${device} as ${address}`);
    }
    return {
      endpoints,
      running: () => [...tftp.running(), ...(http?.running() ?? [])],
      leases: () => dhcp?.leases() ?? [],
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

/**
 * UEFI HTTP Boot and iPXE are told by URL what the others fetch over TFTP: the same folder is behind both, and HTTP is
 * the quicker way.
 */
function withUrls({ boards = {}, ...boot }: BootDhcp["boot"], base: string): BootRules {
  const url = (file: string) => (/^[a-z]+:\/\//i.test(file) ? file : base + file.replace(/^\/+/, ""));
  const byUrl = ({ architectures: files = {}, ...rest }: BootFiles): BootFiles => {
    const overHttp: Partial<Record<Architecture, string>> = {};
    for (const [name, file] of Object.entries(files)) {
      const variant = `${name}-http`;
      if (variant in architectures) overHttp[variant as Architecture] = url(file);
    }
    return {
      ...rest,
      architectures: { ...overHttp, ...files },
      ...(rest.file === undefined ? {} : { http: url(rest.file) }),
      ...(rest.ipxe === undefined ? {} : { ipxe: url(rest.ipxe) }),
    };
  };
  const byMac = Object.entries(boards).map(([mac, files]) => [mac, byUrl(files)] as const);
  return { ...byUrl(boot), boards: Object.fromEntries(byMac) };
}
