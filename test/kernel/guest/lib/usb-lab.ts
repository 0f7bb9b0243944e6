/**
 * Simulated USB devices in a process of their own: a kernel driver that waits for a device (a terminal whose settings are changed) holds
 * up the thread that asked, and this must not be the one that has to answer.
 */
import { fork } from "node:child_process";
import { once } from "node:events";
import type { TestContext } from "node:test";
import type { DeviceModel } from "../../../sim/usbip/device.ts";
import { plugUsb, type Plugged } from "../../../sim/usbip/plug.ts";

export interface LabDevice {
  readonly model: DeviceModel;
  /** Plain data that tests read and change. */
  readonly state: object;
}

const word = "usb-lab";

interface Request {
  readonly id: number;
  readonly what: "plug" | "unplug" | "state" | "change";
  readonly device: string;
  readonly change?: object;
}

/** Serves these devices if this process was started for it by {@link startLab}. @returns whether it was */
export function serveLab(devices: () => Readonly<Record<string, LabDevice>>): boolean {
  if (process.argv[2] !== word) return false;
  const known = devices();
  const plugged = new Map<string, Plugged>();
  const serve = async ({ what, device, change }: Request): Promise<unknown> => {
    const { model, state } = known[device] ?? {};
    if (model === undefined || state === undefined) throw new Error(`no ${device}`);
    const there = plugged.get(device);
    if (what === "plug" && there === undefined) {
      const now = await plugUsb({ after: () => {} }, model);
      plugged.set(device, now);
      return now.path;
    }
    if (what === "plug") return (await there?.plug(), there?.path);
    if (what === "unplug") return there?.unplug();
    if (what === "change") return Object.assign<object, object>(state, change ?? {});
    return state;
  };
  process.on("message", (request: Request) => {
    serve(request).then(
      (result) => process.send?.({ id: request.id, result }),
      (error: unknown) => process.send?.({ id: request.id, error: String(error) }),
    );
  });
  process.on("disconnect", () => process.exit());
  return true;
}

export interface Lab {
  /** @returns where it is plugged in, as sysfs names it */
  plug(device: string): Promise<string>;
  unplug(device: string): Promise<void>;
  state<State>(device: string): Promise<State>;
  change(device: string, change: object): Promise<void>;
}

/** The test file itself is started a second time: it calls {@link serveLab} before anything else. */
export function startLab(t: Pick<TestContext, "after">): Lab {
  const child = fork(process.argv[1] ?? "", [word], { execArgv: [] });
  t.after(async () => {
    const exited = once(child, "exit");
    child.kill();
    await exited;
  });
  let last = 0;
  const ask = (request: Omit<Request, "id">) =>
    new Promise<unknown>((resolve, reject) => {
      const id = ++last;
      const listener = (answer: { id: number; result?: unknown; error?: string }) => {
        if (answer.id !== id) return;
        child.removeListener("message", listener);
        if (answer.error === undefined) resolve(answer.result);
        else reject(new Error(answer.error));
      };
      child.on("message", listener);
      child.send({ id, ...request });
    });
  return {
    plug: async (device) => String(await ask({ what: "plug", device })),
    unplug: async (device) => void (await ask({ what: "unplug", device })),
    state: async <State>(device: string) => (await ask({ what: "state", device })) as State,
    change: async (device, change) => void (await ask({ what: "change", device, change })),
  };
}
