import { imageStorageMux } from "../../boards/storage/interface.ts";
import { AgentError } from "../driver/errors.ts";
import type { LiveDriver } from "../driver/live-driver.ts";
import type { Exporter } from "../session/exporter.ts";

/**
 * The dotted path of a storage mux: as it is given, or the only one below the driver that is given, so that a DUTLink can be named as a whole.
 * @throws AgentError E_USAGE naming those that there are
 */
export function chooseStorage({ tree }: Pick<Exporter, "tree">, wanted: string): string {
  const all = muxesBelow(tree.root);
  const found = all.filter((path) => path === wanted || path.startsWith(`${wanted}.`));
  const [only, second] = found;
  if (only !== undefined && (second === undefined || only === wanted)) return only;
  if (all.length === 0)
    throw new AgentError("E_CONFIG", "this exporter has no storage that can be switched to the host");
  const problem = only === undefined ? `there is no storage ${wanted}` : `${wanted} has several storages`;
  throw new AgentError("E_USAGE", `${problem}: --storage is one of ${(only === undefined ? all : found).join(", ")}`);
}

function muxesBelow(driver: LiveDriver): string[] {
  const has = driver.planned.driver.implements.methods;
  const isMux = Object.keys(imageStorageMux.methods).every((method) => Object.hasOwn(has, method));
  return [...(isMux ? [driver.planned.path] : []), ...[...driver.children.values()].flatMap(muxesBelow)];
}
