import { Duplex, type Writable } from "node:stream";
import { imageStorageMux } from "../../boards/storage/interface.ts";
import { AgentError } from "../driver/errors.ts";
import type { Exporter } from "../session/exporter.ts";
import { defineCommand } from "./command.ts";
import { dumpForm, withDumpFile } from "./dump-file.ts";
import { exporterOptions } from "./exporter-config.ts";
import { chooseStorage } from "./storage-drivers.ts";
import { TransferProgress } from "./transfer-progress.ts";
import { withExporter } from "./with-exporter.ts";

export const dump = defineCommand({
  name: "dump",
  summary: "Read the whole storage of a board into a file, on this host: no client needed.",
  words: { usage: "FILE", least: 1, most: 1 },
  options: {
    ...exporterOptions,
    storage: { type: "string", value: "NAME", help: "dotted path of the storage mux (SDWire, USB-SD-Mux, DUTLink, …)" },
    bmap: { type: "boolean", help: "write a block map beside: FILE.bmap, of what is not zero" },
  },
  notes: `
FILE is raw, with holes where the storage is zero. Its name tells what else: .gz, .xz, .bz2 and .zst are compressed, .simg is
an Android sparse image. The storage goes to the host for that, and to the board at the end; power is left alone.

Example:
  jmp-agent dump card.img.zst --storage sdwire --exporter-config bench.yaml`,

  async run(given, [path = ""]) {
    if (given.storage === undefined) throw new AgentError("E_USAGE", "--storage is missing: which one is read?");
    const { storage, ...options } = given;
    return await withExporter(given, async (exporter, signal) => {
      const { bytes, sha256 } = await dumpStorage(exporter, path, storage, { ...options, signal });
      process.stdout.write(`${path} holds the storage: ${bytes} bytes, sha256 ${sha256}\n`);
      return 0;
    });
  },
});

/** To the host, read, and to the board in every case. */
export async function dumpStorage(
  exporter: Exporter,
  path: string,
  storage: string,
  { bmap, signal }: { readonly bmap?: boolean; readonly signal: AbortSignal },
): Promise<{ bytes: number; sha256: string }> {
  const { format, encoding } = dumpForm(path);
  if (bmap === true && format !== "raw") {
    throw new AgentError("E_USAGE", "an Android sparse image needs no block map: it has its own");
  }
  const driver = chooseStorage(exporter, storage);
  const progress = new TransferProgress();
  try {
    const file = { encoding, bmapPath: bmap === true ? `${path}.bmap` : undefined };
    return await withDumpFile(path, file, async (sink) => {
      const handle = exporter.resources.lend(lendable(sink), null);
      let result = { bytes: 0, sha256: "" };
      for await (const item of exporter.calls(driver, imageStorageMux, { signal }).read_image(handle, { format })) {
        progress.show("read", item);
        if (item.sha256 !== null) result = { bytes: item.bytes, sha256: item.sha256 };
      }
      return result;
    });
  } finally {
    progress.end();
    // The board gets its storage in every case; what goes on after Ctrl-C has no signal.
    await exporter.calls(driver, imageStorageMux).dut();
  }
}

/** What is lent for writing is a Duplex, as streams of clients are; nothing is read from this one. */
function lendable(sink: Writable): Duplex {
  const duplex = new Duplex({
    highWaterMark: 1024 * 1024,
    read() {
      this.push(null);
    },
    write: (bytes: Buffer, _encoding, done) => void sink.write(bytes, done),
    final: (done) => void sink.end(done),
  });
  sink.once("error", (error) => duplex.destroy(error));
  return duplex;
}
