import { AgentError } from "../../../agent/driver/errors.ts";
import type { StorePath } from "./path.ts";
import type { Store } from "./store.ts";

export type StoreOptions = Readonly<Record<string, string>>;

/** What must be given for the schemes that are read by the agent itself. */
export const requiredOptions: Readonly<Record<string, readonly string[]>> = {
  fs: ["root"],
  memory: [],
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
    default:
      throw new AgentError("E_CONFIG", `scheme ${scheme} is not known`);
  }
}

function required(options: StoreOptions, name: string): string {
  const value = options[name];
  if (value === undefined || value === "") throw new AgentError("E_CONFIG", `kwargs.${name} is missing`);
  return value;
}
