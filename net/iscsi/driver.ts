import { mkdir } from "node:fs/promises";
import { lookup } from "node:dns/promises";
import { isIP } from "node:net";
import { isAbsolute } from "node:path";
import * as z from "zod";
import { createHash } from "node:crypto";
import { defineDriver, type Call } from "../../agent/driver/driver.ts";
import { AgentError, toAgentError } from "../../agent/driver/errors.ts";
import * as lax from "../../agent/driver/lax.ts";
import { hostPort, ownAddress } from "../addresses.ts";
import { lockOnHost } from "../host-lock.ts";
import { targetModules, thisKernel, type Kernel } from "./kernel.ts";
import { Images } from "./images.ts";
import { iscsi } from "./interface.ts";
import { longestPath, separators } from "./protocol.ts";
import { allowedDevice, Target } from "./target.ts";

/** RFC 3720 §3.2.6.1: at most 223 bytes. In a path, a slash would be another directory. */
const iqn = z.string().regex(/^[^\s/]{1,223}$/, "must be a name like iqn.2024-06.example:target");

const config = z
  .strictObject({
    root_dir: z
      .string()
      .min(1)
      .default("/var/lib/iscsi")
      .refine((path) => !separators.test(path), "must not contain a comma")
      .describe("folder of the disk images; made if missing"),
    iqn_prefix: z.string().min(1).default("iqn.2024-06.dev.jumpstarter").describe("beginning of the target's name"),
    target_name: z.string().min(1).default("target1").describe("end of the target's name, after a colon"),
    host: z.string().default("").describe("address to listen on and to tell to clients; empty: the host's own address"),
    port: lax.port().prefault(3260).describe("TCP port"),
    remove_created_on_close: lax
      .boolean()
      .prefault(false)
      .describe("at the end of a lease, remove the images that it created"),
    block_device_allowlist: z
      .array(
        z.string().refine(isAbsolute, {
          error: ({ input }) => `block_device_allowlist entry '${String(input)}' is not an absolute path`,
        }),
      )
      .default([])
      .describe("block devices that may be offered; links are followed"),
    initiators: z.array(iqn).default([]).describe("names of the initiators that may log in; empty: everybody"),
    chap: z
      .strictObject({ username: z.string().min(1).max(255), password: z.string().min(1).max(255) })
      .nullish()
      .describe("what initiators must know to log in; empty: nothing"),
    max_decompressed_mb: lax
      .int(1, 2 ** 30)
      .prefault(128 * 1024)
      .describe("MiB that a compressed image may have when it is unpacked"),
  })
  .superRefine(({ iqn_prefix, target_name }, context) => {
    if (iqn.safeParse(`${iqn_prefix}:${target_name}`).success) return;
    context.addIssue({ code: "custom", path: ["target_name"], message: "does not make a valid name of a target" });
  });

/** As a directory of configfs, and as what a client shows. */
const lunName = /^(?!\.{1,2}$)[^/\s,]{1,200}$/;

/** @param kernel whose target it is */
export function iscsiDriver(kernel: Kernel) {
  return defineDriver({
    types: ["jumpstarter_driver_iscsi.driver.ISCSI"],
    summary: "An iSCSI target of the kernel (LIO) that offers disk images and block devices.",
    implements: iscsi,
    config,
    children: ({ config: { root_dir, remove_created_on_close } }) => ({
      storage: {
        type: "jumpstarter_driver_opendal.driver.Opendal",
        config: { scheme: "fs", kwargs: { root: root_dir }, remove_created_on_close },
      },
    }),
    needs: ({ root_dir, port, host }) => ({
      modules: targetModules,
      rights: ["root"],
      ports: [{ protocol: "tcp", port, hosts: host === "" ? [] : [host] }],
      directories: [root_dir],
      programs: ["modprobe"],
    }),
    inspect: () =>
      process.geteuid?.() === 0
        ? [{ ok: true, text: "may configure the kernel's iSCSI target" }]
        : [{ ok: false, text: "only root may configure the kernel's iSCSI target", hint: "run the agent as root" }],
    async open({ config, log }) {
      const name = `${config.iqn_prefix}:${config.target_name}`;
      const target = new Target(kernel.configfs, name);
      await mkdir(config.root_dir, { recursive: true });
      const images = new Images(config.root_dir);
      /** Gives the target's name back; there while the target is ours. */
      let unlock: (() => Promise<void>) | undefined;
      /** Where the running target listens. */
      let listening: string | undefined;

      /** Changes are made one at a time. */
      let last: Promise<unknown> = Promise.resolve();
      const inTurn = <T>(step: () => Promise<T>): Promise<T> => {
        const done = last.then(step);
        last = done.catch(() => {});
        return done;
      };
      const inCall = <T>({ signal }: Call, step: () => Promise<T>) =>
        inTurn(() => {
          signal.throwIfAborted();
          return step();
        });

      const address = async () => {
        if (config.host === "") return (await ownAddress()) ?? "0.0.0.0";
        return isIP(config.host) > 0 ? config.host : (await lookup(config.host)).address;
      };

      /** Takes the target's name, which two exporters may be configured with, and clears what a killed agent has left of it. */
      const take = async () => {
        const taken = await lockOnHost(`iscsi ${createHash("sha256").update(name).digest("hex")}`);
        if (taken === undefined)
          throw new AgentError("E_FAILED", `another exporter of this host has the target ${name}`);
        try {
          if (await target.exists()) {
            // It offers the disks of a lease that is over.
            log.warn(`removing the target ${name} that somebody left`);
            await target.remove();
          }
          return taken;
        } catch (error) {
          await taken();
          throw error;
        }
      };

      const start = async () => {
        const missing = await kernel.load();
        if (missing !== undefined) throw new AgentError("E_DEVICE_OFFLINE", missing);
        unlock ??= await take();
        const { port, initiators, chap } = config;
        listening = await address();
        await target.start({ iqn: name, address: listening, port, initiators, chap: chap ?? undefined });
      };

      const stop = async () => {
        if (unlock === undefined) return;
        await target.remove();
        await unlock();
        unlock = undefined;
        listening = undefined;
        log.info("iSCSI target server stopped");
      };

      const requireStarted = () => {
        if (unlock !== undefined) return;
        throw new AgentError("E_FAILED", "iSCSI target not started, call start() first");
      };

      const release = () => inTurn(stop);

      return {
        methods: {
          start: (call) =>
            inCall(call, () => saying("Failed to start iSCSI target server", start)).then(() =>
              log.info(`iSCSI target server started at ${hostPort(listening ?? config.host, config.port)}`),
            ),
          stop: (call) => inCall(call, () => saying("Failed to stop iSCSI target", stop)),
          get_host: async () => listening ?? (config.host || (await address())),
          get_port: () => config.port,
          get_target_iqn: () => name,

          add_lun: (call, lun, file, sizeMb, isBlock) =>
            inCall(call, async () => {
              if (!lunName.test(lun)) throw new AgentError("E_FAILED", `Invalid LUN name: ${lun}`);
              const backing = isBlock
                ? await allowedDevice(file, config.block_device_allowlist)
                : await images.confine(file, "Invalid file path");
              await saying("Failed to add LUN", async () => {
                requireStarted();
                if (Buffer.byteLength(backing) > longestPath) throw new AgentError("E_FAILED", "the path is too long");
                if (await target.removeLun(lun)) log.info(`LUN ${lun} is replaced`);
                const { sizeBytes, note } = isBlock ? noSize : await images.prepare(backing, sizeMb);
                if (note !== undefined) log.warn(note);
                await target.add(lun, { isBlock, backing, sizeBytes });
              });
              log.info(`Added LUN ${lun} for path ${backing}`);
              return lun;
            }),
          remove_lun: (call, lun) =>
            inCall(call, async () => {
              requireStarted();
              const found = await saying("Failed to remove LUN", () => target.removeLun(lun));
              if (!found) throw new AgentError("E_FAILED", `LUN with name ${lun} does not exist`);
              log.info(`Removed LUN ${lun}`);
            }),
          list_luns: (call) => inCall(call, () => (unlock !== undefined ? target.luns() : Promise.resolve([]))),
          clear_all_luns: (call) =>
            inCall(call, async () => {
              if (unlock === undefined) await start();
              await target.clear(await images.realRoot());
            }),

          decompress: ({ signal }, source, destination, algorithm) =>
            images.decompress(source, destination, algorithm, config.max_decompressed_mb * 2 ** 20, signal),
        },
        // What the kernel did not give back at the end of one lease is tried again before the next.
        reset: release,
        release,
        close: release,
      };
    },
  });
}

export default iscsiDriver(thisKernel());

const noSize = { sizeBytes: 0, note: undefined };

/** Puts the words that clients know before what went wrong. */
async function saying<T>(what: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (thrown) {
    const { code, message, hint } = toAgentError(thrown);
    const told = code === "E_DEVICE_OFFLINE" || code === "E_TIMEOUT" || code === "E_LIMIT" ? code : "E_FAILED";
    throw new AgentError(told, `${what}: ${message}`, { cause: thrown, hint });
  }
}
