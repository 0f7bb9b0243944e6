import { AgentError } from "../../../agent/driver/errors.ts";
import type { StorePath } from "./path.ts";
import type { Store } from "./store.ts";

export type StoreOptions = Readonly<Record<string, string>>;

/** What must be given for the schemes that are read by the agent itself. */
export const requiredOptions: Readonly<Record<string, readonly string[]>> = {
  fs: ["root"],
  memory: [],
  http: ["endpoint"],
  s3: ["bucket"],
};

/**
 * Opens a store of any scheme, loading only the code of that one.
 * @throws AgentError E_CONFIG if nothing here can read the scheme
 */
export async function openStore(
  scheme: string,
  options: StoreOptions,
  onDirectoryMade: (path: StorePath) => void,
): Promise<Store> {
  switch (scheme) {
    case "fs":
      return (await import("./fs.ts")).openFsStore({
        root: required(options, "root"),
        atomicWriteDirectory: options["atomic_write_dir"],
        onDirectoryMade,
      });
    case "memory":
      return (await import("./memory.ts")).openMemoryStore();
    case "http":
      return (await import("./http.ts")).openHttpStore({ ...options, endpoint: required(options, "endpoint") });
    case "s3":
      return (await import("./s3.ts")).openS3Store({ ...options, bucket: required(options, "bucket") });
    default:
      return (await import("./foreign.ts")).openForeignStore(scheme, options);
  }
}

function required(options: StoreOptions, name: string): string {
  const value = options[name];
  if (value === undefined || value === "") throw new AgentError("E_CONFIG", `kwargs.${name} is missing`);
  return value;
}
