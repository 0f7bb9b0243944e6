/**
 * A Jumpstarter controller and its router for tests, in this process, on grpc-js: a peer that shares no code with the
 * agent's own gRPC, and that the unmodified Python exporters and clients accept.
 *
 * ```ts
 * const lab = await startController();             // TLS on two free ports of 127.0.0.1
 * after(() => lab.close());
 * lab.addExporter({ name: "board-1", labels: { board: "rpi4" } });
 * lab.addClient({ name: "ann" });
 * writeFileSync(file, stringify(lab.exporterConfig("board-1", { power: { type: "…MockPower" } })));
 * // … start an exporter with that file …
 * await lab.ready("board-1");                      // registered, online, Available, without a lease
 *
 * lab.createLease({ client: "ann", selector: "board=rpi4", name: "l1" });
 * await lab.waitFor(() => lab.records.statuses.at(-1)?.name === "LEASE_READY", { what: "a lease that is ready" });
 * lab.transfer("l1", "bob");
 * lab.assign({ client: "bob", exporter: "board-1", name: "l2" }); // l1 → l2 without leased=false in between
 * lab.deleteLease("l2");
 *
 * lab.faults.answer("ReportStatus", status.UNAVAILABLE, "try later", { times: 3 });
 * lab.faults.swallow("ReleaseLease");
 * lab.statusStreams.end("board-1", status.INTERNAL, "watch channel closed");
 * const messages = lab.statusStreams.hold("board-1"); … messages.release((held) => held.reverse());
 * await lab.controller.stop(); … await lab.controller.start();    // same port, all state kept
 * lab.controller.reset();                          // RST on every connection
 * lab.router.dropTunnels();
 * assert.deepEqual(lab.records.problems, []);
 * ```
 *
 * A client's side of it: `lab.clientConfig(name)`, and python.ts, which runs `jmp`. In a process of its own, which can be
 * stopped by SIGSTOP: process-client.ts.
 */
import { status } from "@grpc/grpc-js";
import { randomUUID } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ExporterStatus } from "../../../proto/gen/jumpstarter/v1/common.ts";
import { createAuthority, type Authority } from "../certificates.ts";
import { createAuth } from "./auth.ts";
import { clientService } from "./client-service.ts";
import { controllerService } from "./controller-service.ts";
import { createFaults, type Faults } from "./faults.ts";
import { signToken } from "./jwt.ts";
import { createLeaseTable, type LeaseWish } from "./lease-table.ts";
import { createListenQueues, type ListenQueues } from "./listen-queues.ts";
import { openPort, type Port } from "./port.ts";
import { createRecords, type Records } from "./records.ts";
import { features, type Release } from "./releases.ts";
import { createRouter, type Router } from "./router.ts";
import { watchSilence } from "./silence.ts";
import { createStatusStreams, type StatusStreams } from "./status-streams.ts";
import { telemetryService } from "./telemetry.ts";
import { createWorld, key, newExporter, type ExporterObject, type LeaseObject, type World } from "./world.ts";

export interface ControllerOptions {
  /** Default: head. */
  readonly release?: Release;
  /** Default: `default`. */
  readonly namespace?: string;
  /** The name that exporters and clients are told. Default: `address`; the certificate also holds localhost. */
  readonly host?: string;
  /** Where it listens; for exporters in virtual machines one of this machine's own. Default: 127.0.0.1. */
  readonly address?: string;
  /** Default: free ones. */
  readonly ports?: { readonly controller?: number; readonly router?: number };
  /** Serves TelemetryService in plain text and tells exporters of it. Default: no telemetry. */
  readonly telemetry?: { readonly minSeverity?: string };
  /** Where keys and certificates are written, and left. Default: a directory that goes with `close`. */
  readonly directory?: string;
  /** What router tokens are signed with; two labs with the same key accept each other's. Default: a random one. */
  readonly routerKey?: string;
  /** A router elsewhere, with the same key, to which dials are sent instead of the lab's own. */
  readonly outsideRouter?: { readonly endpoint: string; readonly ca: string };
  /** How long a Dial waits for an exporter that is still Available. Default: 30 s, as the real one. */
  readonly dialWaitMs?: number;
  /**
   * A Dial waits until the exporter listens. The real one refuses with UNAVAILABLE. The Python exporter says that it is ready and begins to
   * listen at the same time, in any order; clients before 0.9 do not dial again.
   */
  readonly dialsAwaitListen?: boolean;
  /** Without a Status stream for so long, an exporter is offline. Default: 60 s, as the real one. */
  readonly offlineAfterMs?: number;
}

export interface Lab {
  readonly namespace: string;
  /** HOST:PORT of the controller. */
  readonly endpoint: string;
  readonly routerEndpoint: string;
  /** PEM of the authorities that signed the certificates of both ports. */
  readonly ca: string;
  /** As the configuration files want it. */
  readonly caBase64: string;

  addExporter(exporter: { name: string; namespace?: string; labels?: Record<string, string> }): ExporterObject;
  addClient(client: { name: string; namespace?: string }): void;
  exporter(name: string): ExporterObject;
  lease(name: string): LeaseObject;
  exporterToken(name: string): string;
  clientToken(name: string): string;
  /** An ExporterConfig, to be written as YAML. `more` goes to its top level: hooks, exitOnLeaseEnd. */
  exporterConfig(name: string, exported: Record<string, unknown>, more?: Record<string, unknown>): object;
  /** A ClientConfig, to be written as YAML. */
  clientConfig(name: string): object;

  /** Creates a lease as a client would; it waits for an exporter when none is free. */
  createLease(wish: LeaseWish): LeaseObject;
  /** Gives an exporter a lease at once, whatever its state. The lease it has ends in the same update. */
  assign(wish: LeaseWish & { readonly exporter: string }): LeaseObject;
  deleteLease(name: string): void;
  expire(name: string): void;
  transfer(name: string, client: string): void;
  /** Several changes that exporters see as one. */
  batch<T>(changes: () => T): T;

  readonly records: Records;
  /** Waits until the condition holds, looking again whenever anything happens. Default limit: 30 s. */
  waitFor<T>(condition: () => T, options?: { what?: string; timeoutMs?: number }): Promise<NonNullable<T>>;
  /** Until an exporter could be leased: registered, online, Available or silent, and free. */
  ready(exporter: string, timeoutMs?: number): Promise<void>;

  readonly faults: Faults;
  readonly statusStreams: StatusStreams;
  readonly listenQueues: ListenQueues;
  readonly controller: Port;
  readonly router: Port & Router;
  /** Accepts a new token instead of the old ones, and answers it. `name`: of an exporter or a client. */
  rotateToken(name: string): string;
  /** Accepts no token of this exporter or client until `rotateToken`. Default answer: UNKNOWN, as the real one. */
  refuseTokens(name: string, refusal?: { code: status; details: string }): void;
  /** A new certificate for connections from now on; `another`: from an authority that nobody trusts. */
  replaceCertificates(authority: "same" | "another"): Promise<void>;
  /** Tells the exporter of a tunnel whose other end never comes, and answers its stream. */
  peerlessDial(lease: string): Promise<string>;
  /** As if the exporter's object had been deleted and made anew: its leases and registration are gone. */
  forgetExporter(name: string): void;
  /** Closes ports and streams and removes all files. */
  close(): Promise<void>;
}

export async function startController(options: ControllerOptions = {}): Promise<Lab> {
  const { release = "head", namespace = "default", address = "127.0.0.1", host = address } = options;
  const directory = options.directory ?? (await mkdtemp(join(tmpdir(), "jmp-lab-")));
  const cleanUp = async () => {
    if (options.directory === undefined) await rm(directory, { recursive: true, force: true });
  };
  let authority: Authority;
  try {
    authority = await createAuthority(directory);
  } catch (error) {
    await cleanUp();
    throw error;
  }
  const can = features(release);
  const observers = new Set<() => void>();
  const touched = () => {
    for (const look of [...observers]) look();
  };
  const { offlineAfterMs = 60_000 } = options;
  const world: World = createWorld(namespace, offlineAfterMs);
  const records = createRecords(touched);
  const faults = createFaults();
  const auth = createAuth(world);
  const leases = createLeaseTable(world, namespace, can);
  const statusStreams = createStatusStreams(world, records, can.leaseContext);
  const listenQueues = createListenQueues(records, !can.listenSupersedes);
  const router = createRouter(records, faults, options.routerKey ?? randomUUID());
  const unwatchSilence = watchSilence(world, offlineAfterMs, can.reportStatus);
  world.watch(touched, "last");

  const signingKey = randomUUID();
  const newToken = (subject: string) => {
    const now = Math.floor(Date.now() / 1000);
    const times = { exp: now + 365 * 24 * 3600, nbf: now, iat: now };
    const claims = { iss: "https://lab.test", sub: subject, aud: ["lab"], jti: randomUUID(), ...times };
    return signToken(claims, signingKey);
  };

  const trusted = authority.certificate + (options.outsideRouter?.ca ?? "");
  const hooks = { faults, records };
  const certificate = await authority.serverCertificate([...new Set(["localhost", "127.0.0.1", address])]);
  let telemetry: Port | undefined;
  const parts = {
    ...{ release, world, auth, leases, statusStreams, listenQueues, router, hooks },
    dialWaitMs: options.dialWaitMs ?? 30_000,
    dialsAwaitListen: options.dialsAwaitListen ?? false,
    routerEndpoint: () => lab.routerEndpoint,
    telemetryEndpoint: () =>
      telemetry && {
        endpoint: `${host}:${telemetry.port}`,
        certificate: "",
        minSeverity: options.telemetry?.minSeverity ?? "info",
      },
  };
  const controllerServices = [
    controllerService(parts),
    clientService({ world, auth, leases, hooks, newToken: () => newToken("client") }),
  ];
  const { ports = {} } = options;
  const controllerPort = await openPort(controllerServices, {
    certificate,
    host: address,
    ...withPort(ports.controller),
  });
  const routerPort = await openPort([router.service], { certificate, host: address, ...withPort(ports.router) });
  if (options.telemetry && can.serviceEndpoints) telemetry = await openPort([telemetryService(world, hooks)]);

  const owner = (name: string) => {
    const found = world.exporters.get(key(namespace, name)) ?? world.clients.get(key(namespace, name));
    if (!found) throw new Error(`the lab has no exporter and no client ${name}`);
    return found;
  };
  const tls = () => ({ ca: lab.caBase64, insecure: false });

  const lab: Lab = {
    namespace,
    get endpoint() {
      return `${host}:${controllerPort.port}`;
    },
    get routerEndpoint() {
      return options.outsideRouter?.endpoint ?? `${host}:${routerPort.port}`;
    },
    ca: trusted,
    caBase64: Buffer.from(trusted).toString("base64"),
    addExporter({ name, namespace: own = namespace, labels = {} }) {
      const exporter = newExporter(own, name, labels, newToken(`exporter:${own}:${name}:${randomUUID()}`));
      world.exporters.set(key(own, name), exporter);
      world.changed();
      return exporter;
    },
    addClient({ name, namespace: own = namespace }) {
      const token = newToken(`client:${own}:${name}:${randomUUID()}`);
      world.clients.set(key(own, name), { namespace: own, name, tokens: new Set([token]), issued: token });
    },
    exporter: (name) => world.exporter(name),
    lease: (name) => world.lease(name),
    exporterToken: (name) => world.exporter(name).issued,
    clientToken: (name) => world.client(name).issued,
    exporterConfig: (name, exported, more = {}) => ({
      apiVersion: "jumpstarter.dev/v1alpha1",
      kind: "ExporterConfig",
      metadata: { namespace: world.exporter(name).namespace, name },
      endpoint: lab.endpoint,
      token: lab.exporterToken(name),
      tls: tls(),
      export: exported,
      ...more,
    }),
    clientConfig: (name) => ({
      apiVersion: "jumpstarter.dev/v1alpha1",
      kind: "ClientConfig",
      metadata: { namespace: world.client(name).namespace, name },
      endpoint: lab.endpoint,
      token: lab.clientToken(name),
      tls: tls(),
      drivers: { allow: [], unsafe: true },
    }),
    createLease: (wish) => leases.create(wish),
    assign: (wish) => leases.assign(wish),
    deleteLease: (name) => leases.end(world.lease(name), "Released"),
    expire: (name) => leases.end(world.lease(name), "Expired"),
    transfer: (name, client) => leases.transfer(world.lease(name), world.client(client).name),
    batch: (changes) => world.batch(changes),
    records,
    waitFor(condition, { what = "a condition", timeoutMs = 30_000 } = {}) {
      type Found = NonNullable<ReturnType<typeof condition>>;
      return new Promise<Found>((resolve, reject) => {
        const look = () => {
          try {
            const found = condition();
            if (found) done(() => resolve(found));
          } catch (error) {
            done(() => reject(error instanceof Error ? error : new Error(String(error))));
          }
        };
        const done = (outcome: () => void) => {
          clearTimeout(timer);
          clearInterval(again);
          observers.delete(look);
          outcome();
        };
        const late = () => {
          const calls = records.calls.slice(-20).map(({ atMs, rpc, caller, code, details }) => {
            return `  ${atMs} ms ${rpc} ${caller ?? ""} ${code === undefined ? "open" : status[code]} ${details ?? ""}`;
          });
          const text = [`waited ${timeoutMs} ms in vain for ${what}; the last calls:`, ...calls].join("\n");
          done(() => reject(new Error(text)));
        };
        const timer = setTimeout(late, timeoutMs);
        // Conditions may also ask for things that the lab does not see change.
        const again = setInterval(look, 50);
        observers.add(look);
        look();
      });
    },
    async ready(name, timeoutMs) {
      const { EXPORTER_STATUS_AVAILABLE, EXPORTER_STATUS_UNSPECIFIED } = ExporterStatus;
      const isReady = () => {
        const exporter = world.exporter(name);
        const idle = exporter.status === EXPORTER_STATUS_AVAILABLE || exporter.status === EXPORTER_STATUS_UNSPECIFIED;
        const connected = exporter.statusStreams > 0 && exporter.devices !== null;
        return connected && idle && world.leaseOf(exporter) === undefined;
      };
      await lab.waitFor(isReady, { what: `exporter ${name} to be ready`, ...(timeoutMs && { timeoutMs }) });
    },
    faults,
    statusStreams,
    listenQueues,
    controller: controllerPort,
    router: joined(routerPort, router),
    rotateToken(name) {
      const token = newToken(name);
      Object.assign(owner(name), { tokens: new Set([token]), issued: token });
      return token;
    },
    refuseTokens(name, refusal) {
      owner(name).tokens.clear();
      if (refusal) Object.assign(auth.refusal, refusal);
    },
    async replaceCertificates(kind) {
      const other = join(directory, randomUUID());
      const signer = kind === "same" ? authority : await createAuthority(other, "another authority");
      const next = await signer.serverCertificate();
      controllerPort.useCertificate(next);
      routerPort.useCertificate(next);
    },
    async peerlessDial(lease) {
      const { stream, token } = router.token();
      await listenQueues.push(lease, { routerEndpoint: lab.routerEndpoint, routerToken: token });
      return stream;
    },
    forgetExporter(name) {
      const exporter = world.exporter(name);
      world.batch(() => {
        for (const lease of [...world.activeLeases]) {
          if (lease.exporter !== name || lease.namespace !== exporter.namespace) continue;
          leases.end(lease, "Released");
          world.leases.delete(key(lease.namespace, lease.name));
        }
        const { uid, devices, status, statusMessage, lastSeenMs } = newExporter(exporter.namespace, name, {}, "");
        const labels = Object.entries(exporter.labels).filter(([label]) => !label.startsWith("jumpstarter.dev/"));
        const fresh = { uid, devices, status, statusMessage, lastSeenMs, labels: Object.fromEntries(labels) };
        Object.assign(exporter, fresh);
        world.changed();
      });
    },
    async close() {
      leases.close();
      unwatchSilence();
      await Promise.all([controllerPort.stop(), routerPort.stop(), telemetry?.stop()]);
      await cleanUp();
    },
  };
  return lab;
}

function withPort(port: number | undefined) {
  return port === undefined ? {} : { port };
}

/** One object with the members of both. What changes in them must be an accessor. */
function joined<A extends object, B extends object>(a: A, b: B): A & B {
  const members = { ...Object.getOwnPropertyDescriptors(a), ...Object.getOwnPropertyDescriptors(b) };
  return Object.defineProperties({}, members) as A & B;
}
