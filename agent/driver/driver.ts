import type { Readable, Writable } from "node:stream";
import type * as z from "zod";
import type { Bridge, BridgeContext } from "./bridge.ts";
import type { Calls, Implementation, Interface } from "./interface.ts";
import type { Logger } from "./log.ts";
import type { ReceiptKeeper } from "./receipt.ts";
import type { ResourceHandle } from "./resource.ts";
import type { Entry } from "./entry.ts";
import type { Shown } from "./shown.ts";
import type { TreeEvent, TreeListener } from "./tree-events.ts";

type Awaitable<T> = T | Promise<T>;

/** Something that can be given up. The signal may be made when it is first asked for: most calls never do. */
export interface Cancellable {
  /** Aborted when the caller cancels, its connection is lost, or the lease ends. */
  readonly signal: AbortSignal;
}

/** What a method's code knows of the call it serves. */
export interface Call extends Cancellable {
  readonly log: Logger;
  /** Plain (decoded) bytes of a resource that the client lends. Closed by the framework when the call ends. */
  source(handle: ResourceHandle): Promise<Readable>;
  /** Takes plain bytes for the client; end it to make the client's file complete. Closed when the call ends. */
  sink(handle: ResourceHandle): Promise<Writable>;
}

/** A child as its parent's code sees it; a `ref` looks exactly like its target. */
export interface ChildHandle {
  /** The type string it was configured with. */
  readonly type: string;
  /** Typed calls, checked like those of a remote client. Throws E_CONFIG if the child does not implement it. */
  as<I extends Interface>(wanted: I, options?: { signal?: AbortSignal }): Calls<I>;
  child(name: string): ChildHandle | undefined;
  /** Lends a local stream to one call of this child, as a client lends a file. */
  lend(source: Readable): ResourceHandle;
}

export interface OpenContext<C> {
  readonly config: C;
  /** Last part of `path`; empty for the root. */
  readonly name: string;
  /** Name of the exporter. */
  readonly exporter: string;
  /** Dotted path from the root, e.g. `flasher.tftp`. */
  readonly path: string;
  readonly uuid: string;
  readonly log: Logger;
  readonly children: ReadonlyMap<string, ChildHandle>;
  /** What the driver's `bridge` made. */
  readonly bridge: Bridge | undefined;
  /** Aborted when the exporter closes. */
  readonly signal: AbortSignal;
  /**
   * One object per key and exporter, for drivers that must meet (a serial port, a virtual machine).
   * Made on first use; its `close` is called after all drivers are closed.
   */
  shared<T extends { close?(): Awaitable<void> }>(key: string, make: () => T): T;
  /** The same for drivers of all exporters of this process, for what a host has once (a port). */
  sharedOnHost<T extends object>(key: string, make: () => T): T;
  /** Takes what a flash did. */
  readonly receipts: ReceiptKeeper;
  /** Listens to what happens to all drivers of the exporter, also while this driver is offline. @returns takes it back */
  observe(listener: TreeListener): () => void;
  /** Tells those who listen, of this driver, what no call tells. */
  tell(event: Extract<TreeEvent, { kind: "transfer" | "boot" }>): void;
}

/** An opened driver. All of `reset`, `release` and `close` must be idempotent. */
export interface OpenDriver<I extends Interface> {
  readonly methods: Implementation<I, Call>;
  /** Method help for the report, where only the configuration knows it (shell). */
  readonly methodsDescription?: Readonly<Record<string, string>>;
  /** At lease start. */
  reset?(): Awaitable<void>;
  /** At lease end: what a lease leaves behind goes here. */
  release?(): Awaitable<void>;
  close?(): Awaitable<void>;
  /**
   * Looks whether the device is still there, without touching it; called when something was plugged in or out, and now and then.
   * @throws DeviceOffline if it has gone: the driver is then closed and offline, and opened again when the device is back.
   */
  check?(): Awaitable<void>;
  /** What the host's operator may see of it now. Quick, touches no device, and never throws. */
  shows?(): Shown;
}

/** What a driver sees of its hardware, for `jmp-agent doctor`. */
export interface Finding {
  readonly ok: boolean;
  /** Names the device: `SDWire 04e8:6001, serial sd-wire_11, at 1-1.2`. */
  readonly text: string;
  /** What the reader can do about it. */
  readonly hint?: string;
  /** Paths below /dev that the driver opens for this device; the doctor looks whether this user may. */
  readonly nodes?: readonly string[];
}

/** A port that a driver listens on. */
export interface NeededPort {
  readonly protocol: "tcp" | "udp";
  readonly port: number;
  /** Addresses; empty, or a wildcard: any. */
  readonly hosts: readonly string[];
  /** It is listened on at this interface only: who has the port on another interface is not in the way. */
  readonly interface?: string;
}

/**
 * What a driver does with the host that a service may be kept from: `tty:ttyUSB` opens serial ports of that name; usb, hid, scsi, disk,
 * gpio, i2c, video, kvm device nodes of that kind; can and vsock sockets of that family. can-setup and network change the network,
 * hub-port a hub's ports through sysfs, mount and root need what only root may do. programs starts some that the configuration names,
 * whose needs nobody knows.
 */
export type HostRight =
  | `tty:${string}`
  | "usb"
  | "hid"
  | "scsi"
  | "disk"
  | "gpio"
  | "i2c"
  | "video"
  | "kvm"
  | "can"
  | "can-setup"
  | "vsock"
  | "network"
  | "hub-port"
  | "mount"
  | "root"
  | "programs";

/** What a driver wants of the host that it runs on, for `jmp-agent doctor` and `jmp-agent policy`. */
export interface HostNeeds {
  /** Kernel modules, by the names that modprobe takes. One that is built in counts. */
  readonly modules?: readonly string[];
  readonly ports?: readonly NeededPort[];
  /** Where it writes; made if missing. */
  readonly directories?: readonly string[];
  /** Programs that it starts. */
  readonly programs?: readonly string[];
  /** For whatever device is plugged in. */
  readonly rights?: readonly HostRight[];
}

/** An entry for `export:` that would drive something that is plugged in, for `jmp-agent suggest`. */
export interface Suggestion {
  readonly name: string;
  readonly entry: Entry;
  /** The device that it is for. */
  readonly why: string;
}

/** Names under which children may be added by the driver itself. */
export interface ChildrenContext<C> {
  readonly config: C;
  /** Dotted path of this driver, to build `ref`s from. */
  readonly path: string;
  /** The children given in the configuration. */
  readonly configured: Readonly<Record<string, Entry>>;
}

export interface Driver<I extends Interface = Interface, S extends z.ZodType = z.ZodType> {
  /** Every `type:` string that selects this driver. */
  readonly types: readonly string[];
  readonly summary: string;
  readonly implements: I;
  /** Schema of the entry's `config:` map. */
  readonly config: S;
  /** The Python client class for this configuration, if it is not that of the interface. */
  readonly client?: (config: z.output<S>) => string | undefined;
  /** Extra labels of the report. */
  readonly labels?: (config: z.output<S>) => Record<string, string>;
  /** Children this driver brings along, after the configured ones; a same-named one replaces the configured one. */
  readonly children?: (context: ChildrenContext<z.output<S>>) => Record<string, Entry>;
  /** Children that must be configured, by name, with the error text that clients know. */
  readonly requires?: Readonly<Record<string, string>>;
  /** Its device comes and goes: while it is missing, the driver is tried again by itself when something is plugged in. */
  readonly hotPlugged?: true;
  /** What the configuration matches now. Changes nothing, and works while an agent has the device open. */
  inspect?(config: z.output<S>): Awaitable<readonly Finding[]>;
  /** What must be there on the host, whatever is plugged in. */
  needs?(config: z.output<S>): HostNeeds;
  /** Entries for what is plugged in. Changes nothing. */
  suggest?(): Awaitable<readonly Suggestion[]>;
  /**
   * Another process runs this driver with all that is configured below it, which its config then holds. Made once, before
   * `open` gives it life; starts nothing.
   */
  bridge?(context: BridgeContext<z.output<S>>): Bridge;
  /**
   * Gives the interface life; must not change the state of hardware.
   * @throws DeviceOffline if the hardware is missing: the driver is then offline, not the agent.
   */
  open(context: OpenContext<z.output<S>>): Awaitable<OpenDriver<I>>;
}

export function defineDriver<I extends Interface, S extends z.ZodType>(driver: Driver<I, S>): Driver<I, S> {
  return driver;
}

/** A driver whose config and methods are checked at run time only; what the catalog hands out. */
export type AnyDriver = Driver<Interface, z.ZodType<Record<string, unknown>>>;
