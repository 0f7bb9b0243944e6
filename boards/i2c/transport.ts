import { access, readdir, readFile, readlink } from "node:fs/promises";
import { basename, join } from "node:path";
import { AgentError, DeviceOffline, isSystemError } from "../../agent/driver/errors.ts";
import { openI2c, type I2cBus, type I2cMessage } from "../../agent/sys/i2c.ts";
import { smbusWays } from "./smbus.ts";

export interface Bus {
  /** `i2c-1 [bcm2835 (i2c@7e804000)]` */
  readonly description: string;
  readonly path: string;
  /** True if it takes any messages, and not only what SMBus knows. */
  readonly plain: boolean;
  /**
   * One transaction with one chip. @returns what each read brought, in their order
   * @throws AgentError E_IO if nobody acknowledges, E_UNSUPPORTED if the adapter cannot do this
   */
  transfer(address: number, messages: readonly I2cMessage[]): Promise<Buffer[]>;
  /** @throws DeviceOffline when the adapter has gone */
  check(): Promise<void>;
  close(): Promise<void>;
}

interface Adapter {
  /** `i2c-1` */
  readonly name: string;
  /** What its driver calls it; undefined if sysfs does not tell. */
  readonly label: string | undefined;
}

export const hex = (address: number) => `0x${address.toString(16).padStart(2, "0")}`;

async function adapters(sys: string): Promise<Adapter[]> {
  const folder = join(sys, "class/i2c-dev");
  const names = (await readdir(folder).catch(() => [] as string[])).filter((name) => /^i2c-\d+$/.test(name));
  const label = (name: string) =>
    readFile(join(folder, name, "name"), "utf8").then(
      (text) => text.trim(),
      () => undefined,
    );
  const all = await Promise.all(names.map(async (name) => ({ name, label: await label(name) })));
  return all.sort((a, b) => Number(a.name.slice(4)) - Number(b.name.slice(4)));
}

const describe = ({ name, label }: Adapter) => (label === undefined ? name : `${name} [${label}]`);

/**
 * The adapter that a configuration means: by number, `i2c-1`, path, or the name that its driver gives it.
 * @throws DeviceOffline when there is none, with those that are there; also when a name fits several
 */
export async function findAdapter(bus: number | string, sys = "/sys"): Promise<Adapter & { path: string }> {
  const all = await adapters(sys);
  const name =
    typeof bus === "number"
      ? `i2c-${bus}`
      : bus.startsWith("/")
        ? basename(bus)
        : /^i2c-\d+$/.test(bus)
          ? bus
          : undefined;
  if (name !== undefined) {
    const path = typeof bus === "string" && bus.startsWith("/") ? bus : `/dev/${name}`;
    const known = all.find((adapter) => adapter.name === name);
    if (known !== undefined || path === bus) return { ...(known ?? { name, label: undefined }), path };
  } else {
    const [fit, ...more] = all.filter(({ label }) => label === bus);
    if (more.length > 0 && fit !== undefined) {
      const list = [fit, ...more].map(describe).join(" and ");
      throw new DeviceOffline(`${more.length + 1} I2C buses are called '${bus}': ${list}; say which by its number`);
    }
    if (fit !== undefined) return { ...fit, path: `/dev/${fit.name}` };
  }
  const there = all.length === 0 ? "" : `; there is ${all.map(describe).join(", ")}`;
  const what = name ?? `called '${bus}'`;
  throw new DeviceOffline(`there is no I2C bus ${what}${there}`, {
    hint: "load the kernel module i2c-dev, or enable the bus in the board's configuration",
  });
}

/** @throws DeviceOffline when there is no such bus; AgentError E_IO when this user may not open it */
export async function openBus(bus: number | string): Promise<Bus> {
  const adapter = await findAdapter(bus);
  const description = describe(adapter);
  const opened = await openI2c(adapter.path);
  const check = async () => {
    // While a bus is open, the kernel waits with the removal of an adapter that was unplugged; its file goes at once.
    await access(adapter.path).catch((cause: unknown) => {
      throw new DeviceOffline(`the I2C bus ${description} has gone`, { cause });
    });
  };
  return {
    description,
    path: adapter.path,
    plain: opened.can("I2C"),
    async transfer(address, messages) {
      try {
        if (opened.can("I2C")) return await opened.transfer(address, messages);
        return await bySmbus(opened, description, address, messages);
      } catch (error) {
        if (isSystemError(error) && error.code === "ENODEV") await check();
        throw await explain(error, adapter, description, address);
      }
    },
    check,
    close: () => opened.close(),
  };
}

async function bySmbus(bus: I2cBus, description: string, address: number, messages: readonly I2cMessage[]) {
  const way = smbusWays(messages).find(({ needs }) => bus.can(needs));
  if (way === undefined) {
    const can = "it knows SMBus only: one byte, a register of 1 to 32 bytes";
    throw new AgentError("E_UNSUPPORTED", `the I2C bus ${description} cannot send these messages; ${can}`);
  }
  const result = await bus.smbus(address, way.call);
  return way.call.read ? [result] : [];
}

async function explain(error: unknown, adapter: Adapter, description: string, address: number): Promise<unknown> {
  if (!isSystemError(error)) return error;
  const where = `${hex(address)} on ${description}`;
  switch (error.code) {
    // Which of these an adapter's driver says for "not acknowledged" is up to it; i2c-stub says ENODEV.
    case "ENXIO":
    case "EREMOTEIO":
    case "ENODEV":
      return new AgentError("E_IO", `no chip answers at ${where}`, { cause: error });
    case "EBUSY": {
      const device = `${adapter.name.slice(4)}-${address.toString(16).padStart(4, "0")}`;
      const driver = await readlink(`/sys/bus/i2c/devices/${device}/driver`).catch(() => "");
      const by = driver === "" ? "a driver of the kernel" : `the kernel's driver ${basename(driver)}`;
      return new AgentError("E_IO", `the chip at ${where} is in use by ${by}`, { cause: error });
    }
    case "ETIMEDOUT":
      return new AgentError("E_TIMEOUT", `the chip at ${where} did not answer in time`, { cause: error });
    case "EOPNOTSUPP":
    case "ENOTSUP":
      return new AgentError("E_UNSUPPORTED", `the I2C bus ${description} cannot send these messages`, { cause: error });
    default:
      return error;
  }
}
