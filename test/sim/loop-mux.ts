import { setTimeout as sleep } from "node:timers/promises";
import type { TestContext } from "node:test";
import * as z from "zod";
import { shippedDrivers, type Catalog } from "../../agent/driver/catalog.ts";
import { defineDriver, type AnyDriver } from "../../agent/driver/driver.ts";
import type { FlashReceipt, FlashStart, ReceiptKeeper } from "../../agent/driver/receipt.ts";
import { createExporter, type Exporter } from "../../agent/session/exporter.ts";
import { imageStorageMux } from "../../boards/storage/interface.ts";
import { muxConfig, openMux, type Side } from "../../boards/storage/mux.ts";

/** A medium that can be taken out: a loop disk, or whatever stands on one. */
export interface Medium {
  /** As the driver finds it. */
  readonly path: string;
  readonly eject?: () => void;
  readonly insert?: () => void;
}

/** A mux whose card is a block device of this host. It takes a moment to switch. */
export function loopMux(medium: Medium, hooks: { readonly onSelect?: (side: Side) => void } = {}) {
  let side: Side = "host";
  return defineDriver({
    types: ["test.Mux"],
    summary: "A medium in a loop device.",
    implements: imageStorageMux,
    config: z.strictObject(muxConfig),
    open: ({ config, ...context }) =>
      openMux(
        {
          key: medium.path,
          async select(wanted) {
            await sleep(1);
            hooks.onSelect?.(wanted);
            if (side === "host" && wanted !== "host") medium.eject?.();
            if (side !== "host" && wanted === "host") medium.insert?.();
            side = wanted;
          },
          locate: () => medium.path,
        },
        config,
        context,
      ),
  });
}

/** Keeps receipts for tests to look at. */
export class ReceiptList implements ReceiptKeeper {
  readonly begun: FlashStart[] = [];
  readonly receipts: FlashReceipt[] = [];

  async begin(start: FlashStart) {
    this.begun.push(start);
    return {
      end: async (report: Omit<FlashReceipt, "format" | "exporter">) => {
        const receipt: FlashReceipt = { format: "jumpstarter-agent/flash-receipt/v1", exporter: "test", ...report };
        this.receipts.push(receipt);
        return receipt;
      },
    };
  }
}

/** An exporter with `storage` on this medium, `power`, and a `console` that echoes. */
export async function muxExporter(
  t: Pick<TestContext, "after">,
  driver: ReturnType<typeof loopMux>,
  config: Record<string, unknown> = {},
): Promise<{ exporter: Exporter; kept: ReceiptList }> {
  const catalog: Catalog = {
    types: () => shippedDrivers.types(),
    load: (type) => (type === "test.Mux" ? Promise.resolve(driver as unknown as AnyDriver) : shippedDrivers.load(type)),
  };
  const kept = new ReceiptList();
  const exporter = await createExporter({
    name: "test",
    export: {
      storage: {
        type: "test.Mux",
        config: { storage_timeout: 1, storage_leeway: 0, storage_fsync_timeout: 1, ...config },
      },
      power: { type: "jumpstarter_driver_power.driver.MockPower" },
      console: { type: "jumpstarter_driver_pyserial.driver.PySerial", config: { url: "loop://" } },
    },
    catalog,
    receipts: kept,
  });
  t.after(() => exporter.close());
  return { exporter, kept };
}
