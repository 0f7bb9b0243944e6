import { macText, userClasses, type DhcpMessage } from "./protocol.ts";

/**
 * What a machine can boot: the names of IANA's "Processor Architecture Types" (RFC 5970 section 3.3; RFC 4578 section 2.1)
 * that matter for boards, with the numbers that firmware sends. Of x64 two: RFC 4578 had 9 for it until its erratum.
 */
export const architectures = {
  bios: [0],
  "efi-ia32": [6],
  "efi-x64": [7, 9],
  "efi-arm32": [10],
  "efi-arm64": [11],
  "efi-riscv32": [25],
  "efi-riscv64": [27],
  "efi-loongarch64": [39],
  "efi-ia32-http": [15],
  "efi-x64-http": [16],
  "efi-arm32-http": [18],
  "efi-arm64-http": [19],
  "bios-http": [20],
  "uboot-arm32": [21],
  "uboot-arm64": [22],
  "uboot-arm32-http": [23],
  "uboot-arm64-http": [24],
  "efi-riscv32-http": [26],
  "efi-riscv64-http": [28],
  "efi-loongarch64-http": [40],
  "rpi-boot": [41],
} as const;

export type Architecture = keyof typeof architectures;

const nameOf = new Map<number, Architecture>(
  Object.entries(architectures).flatMap(([name, codes]) => codes.map((code) => [code, name as Architecture] as const)),
);

/** What to boot. Every name may be a path on the TFTP server or, for firmware that can, a URL. */
export interface BootFiles {
  /** For machines that nothing else here fits. */
  readonly file?: string | undefined;
  readonly architectures?: Readonly<Partial<Record<Architecture, string>>> | undefined;
  /** Script or file for machines that run iPXE already; without it they get what the others get. */
  readonly ipxe?: string | undefined;
  /** URL for UEFI HTTP Boot of every architecture that `architectures` does not have as `…-http`. */
  readonly http?: string | undefined;
  /** Address of the TFTP server, when it is not the DHCP server. */
  readonly server?: string | undefined;
}

export interface BootRules extends BootFiles {
  /** By MAC address, in lower case with colons; goes before the general rules, field by field. */
  readonly boards?: Readonly<Record<string, BootFiles>> | undefined;
}

/** Who asks. */
export interface Machine {
  /** Of an Ethernet card in lower case with colons. */
  readonly mac: string;
  /** pxe: a PXE ROM or UEFI over TFTP; http: UEFI HTTP Boot; ipxe: iPXE; plain: anything else, as U-Boot or an operating system. */
  readonly firmware: "pxe" | "http" | "ipxe" | "plain";
  /** Undefined: it tells none, or one without a name here. */
  readonly architecture: Architecture | undefined;
  readonly vendorClass: string;
}

export interface BootAnswer {
  /** Path or URL. */
  readonly file: string;
  readonly server: string | undefined;
}

const pxeClass = "PXEClient";
const httpClass = "HTTPClient";

export function machineOf({ hardwareAddress, options }: DhcpMessage): Machine {
  const vendorClass = options.vendorClass ?? "";
  // `PXEClient:Arch:00007:UNDI:003016`, from firmware that does not send option 93.
  const inClass = /:Arch:(\d{5})/.exec(vendorClass)?.[1];
  const codes = options.architectures ?? (inClass === undefined ? [] : [Number(inClass)]);
  const architecture = codes.map((code) => nameOf.get(code)).find((name) => name !== undefined);
  return {
    mac: macText(hardwareAddress),
    firmware: firmwareOf(vendorClass, options.userClass),
    architecture,
    vendorClass,
  };
}

function firmwareOf(vendorClass: string, userClass: Uint8Array | undefined): Machine["firmware"] {
  if (userClasses(userClass).includes("iPXE")) return "ipxe";
  if (vendorClass.startsWith(httpClass)) return "http";
  return vendorClass.startsWith(pxeClass) ? "pxe" : "plain";
}

/** What option 60 of an answer must be for this machine to take it for a boot answer; undefined: it does not care. */
export function answeredClass({ vendorClass }: Machine): string | undefined {
  return [pxeClass, httpClass].find((name) => vendorClass.startsWith(name));
}

/** @returns undefined when there is nothing for it to boot */
export function chooseBoot(rules: BootRules, machine: Machine): BootAnswer | undefined {
  const board = rules.boards?.[machine.mac] ?? {};
  const file = fileFor([board, rules], machine);
  return file === undefined ? undefined : { file, server: board.server ?? rules.server };
}

function fileFor(levels: readonly BootFiles[], { firmware, architecture }: Machine): string | undefined {
  // Before all else, or iPXE would be told to load itself again, for ever.
  const script = firmware === "ipxe" ? levels.find(({ ipxe }) => ipxe !== undefined)?.ipxe : undefined;
  if (script !== undefined) return script;
  for (const level of levels) {
    const own = architecture === undefined ? undefined : level.architectures?.[architecture];
    // A machine that boots over HTTP can do nothing with a TFTP path (UEFI 2.10 section 24.7.2).
    const file = own ?? (firmware === "http" ? (level.http ?? urlOrNothing(level.file)) : level.file);
    if (file !== undefined) return file;
  }
  return undefined;
}

function urlOrNothing(file: string | undefined): string | undefined {
  return file !== undefined && /^https?:/i.test(file) ? file : undefined;
}
