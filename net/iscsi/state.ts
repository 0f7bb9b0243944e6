import type { Configfs } from "./configfs.ts";
import { backstoreOf, groupPath, isFilestore, lunId, targetPath, type LunState, type TargetState } from "./protocol.ts";

/** What the kernel has of a target now; undefined if there is none. */
export async function readTarget(configfs: Configfs, iqn: string): Promise<TargetState | undefined> {
  const known = await configfs.list("iscsi");
  if (!known.some(({ name }) => name === iqn)) return undefined;
  const group = groupPath(iqn);
  const directories = async (path: string) => {
    return (await configfs.list(path)).filter(({ isDirectory }) => isDirectory).map(({ name }) => name);
  };
  const links = async (path: string) => {
    return (await configfs.list(path)).filter(({ isLink }) => isLink).map(({ name }) => name);
  };

  const luns: LunState[] = [];
  for (const name of await directories(`${group}/lun`)) {
    const id = lunId(name);
    if (id === undefined) continue;
    const path = `${group}/lun/${name}`;
    const found = await links(path);
    const [first] = found;
    const backstore = first === undefined ? undefined : backstoreOf(await configfs.readLink(`${path}/${first}`));
    luns.push({ id, name, links: found, backstore });
  }
  const acls: TargetState["acls"][number][] = [];
  for (const initiator of await directories(`${group}/acls`)) {
    const path = `${group}/acls/${initiator}`;
    const mapped = (await directories(path)).filter((name) => lunId(name) !== undefined);
    const read = mapped.map(async (name) => ({ name, links: await links(`${path}/${name}`) }));
    acls.push({ initiator, luns: await Promise.all(read) });
  }
  luns.sort((one, other) => one.id - other.id);
  return { luns, acls, portals: await directories(`${group}/np`), hasGroup: await hasGroup(configfs, iqn) };
}

async function hasGroup(configfs: Configfs, iqn: string): Promise<boolean> {
  return (await configfs.list(targetPath(iqn))).some(({ name }) => name === "tpgt_1");
}

/** The backstores of files below a directory, of whatever target. */
export async function filestoresBelow(configfs: Configfs, directory: string): Promise<string[]> {
  const found: string[] = [];
  for (const adapter of await configfs.list("core")) {
    if (!isFilestore(`core/${adapter.name}`)) continue;
    for (const { name, isDirectory } of await configfs.list(`core/${adapter.name}`)) {
      const path = `core/${adapter.name}/${name}`;
      if (!isDirectory) continue;
      const backing = await configfs.read(`${path}/udev_path`);
      if (backing.startsWith(`${directory}/`)) found.push(path);
    }
  }
  return found;
}
