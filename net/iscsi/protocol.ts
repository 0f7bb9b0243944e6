/**
 * The kernel's target (LIO) as it is configured: directories, attributes and links below `/sys/kernel/config/target`.
 * Source: the kernel's drivers/target/target_core_configfs.c and drivers/target/iscsi/iscsi_target_configfs.c.
 * Everything here is a list of steps or the reading of a text; {@link Configfs} takes the steps.
 */

/** One change. Paths are relative to the target directory. */
export type Step =
  | { readonly do: "make"; readonly path: string }
  | { readonly do: "write"; readonly path: string; readonly text: string }
  | { readonly do: "link"; readonly path: string; readonly to: string }
  | { readonly do: "unlink"; readonly path: string }
  | { readonly do: "remove"; readonly path: string };

const make = (path: string): Step => ({ do: "make", path });
const write = (path: string, text: string): Step => ({ do: "write", path, text });
const remove = (path: string): Step => ({ do: "remove", path });

export interface Portal {
  readonly iqn: string;
  /** Numeric. */
  readonly address: string;
  readonly port: number;
  /** Who may log in; empty: everybody. */
  readonly initiators: readonly string[];
  readonly chap: { readonly username: string; readonly password: string } | undefined;
}

export const targetPath = (iqn: string) => `iscsi/${iqn}`;
export const groupPath = (iqn: string) => `${targetPath(iqn)}/tpgt_1`;
export const lunPath = (iqn: string, id: number) => `${groupPath(iqn)}/lun/lun_${id}`;
const aclPath = (iqn: string, initiator: string) => `${groupPath(iqn)}/acls/${initiator}`;

/** A target that answers at its portal, without LUNs. What is there already stays. */
export function startSteps({ iqn, address, port, initiators, chap }: Portal): Step[] {
  const group = groupPath(iqn);
  const secrets = (at: string): Step[] =>
    chap === undefined ? [] : [write(`${at}/auth/userid`, chap.username), write(`${at}/auth/password`, chap.password)];
  return [
    make("iscsi"),
    make(targetPath(iqn)),
    make(group),
    write(`${group}/attrib/authentication`, chap === undefined ? "0" : "1"),
    // Whoever comes gets what everybody gets, unless the initiators are named.
    write(`${group}/attrib/generate_node_acls`, initiators.length === 0 ? "1" : "0"),
    write(`${group}/attrib/demo_mode_write_protect`, "0"),
    ...secrets(group),
    ...initiators.flatMap((initiator) => [make(aclPath(iqn, initiator)), ...secrets(aclPath(iqn, initiator))]),
    make(`${group}/np/${address.includes(":") ? `[${address}]` : address}:${port}`),
    write(`${group}/enable`, "1"),
  ];
}

export interface Backstore {
  /** `core/fileio_3/NAME`. */
  readonly path: string;
  readonly isBlock: boolean;
  /** The file or device. */
  readonly backing: string;
  /** Of a file: what the LUN shows of it. */
  readonly sizeBytes: number;
  /** Tells this disk from all others, also after it moved. */
  readonly serial: string;
}

/** What the kernel's option parser would take for the beginning of another option. */
export const separators = /[,\n]/;
/** `FD_MAX_DEV_NAME` of drivers/target/target_core_file.h, with the NUL. */
export const longestPath = 255;

export function backstoreSteps({ path, isBlock, backing, sizeBytes, serial }: Backstore): Step[] {
  return [
    make(path),
    write(
      `${path}/control`,
      // Through the page cache, as rtslib does by default: with O_DSYNC every write would wait for the disk.
      isBlock ? `udev_path=${backing}` : `fd_dev_name=${backing},fd_dev_size=${sizeBytes},fd_buffered_io=1`,
    ),
    write(`${path}/enable`, "1"),
    write(`${path}/udev_path`, backing),
    write(`${path}/wwn/vpd_unit_serial`, serial),
  ];
}

/** Makes a backstore a LUN, for all named initiators. */
export function lunSteps(iqn: string, id: number, backstore: string, initiators: readonly string[]): Step[] {
  const lun = lunPath(iqn, id);
  return [
    make(lun),
    { do: "link", path: `${lun}/backstore`, to: backstore },
    ...initiators.flatMap((initiator): Step[] => {
      const mapped = `${aclPath(iqn, initiator)}/lun_${id}`;
      return [make(mapped), { do: "link", path: `${mapped}/lun`, to: lun }, write(`${mapped}/write_protect`, "0")];
    }),
  ];
}

/** What is there of a target. */
export interface TargetState {
  /** Its one portal group; without it the rest is empty. */
  readonly hasGroup: boolean;
  readonly portals: readonly string[];
  /** Names of the initiators that have an ACL, with what they are mapped to. */
  readonly acls: readonly { readonly initiator: string; readonly luns: readonly LinkDirectory[] }[];
  readonly luns: readonly LunState[];
}

/** A directory that stands for what its link leads to. */
export interface LinkDirectory {
  readonly name: string;
  readonly links: readonly string[];
}

export interface LunState extends LinkDirectory {
  readonly id: number;
  /** `core/fileio_0/NAME`; undefined for a LUN that was not finished. */
  readonly backstore: string | undefined;
}

export function removeLunSteps(iqn: string, state: TargetState, lun: LunState): Step[] {
  const mapped = state.acls.flatMap(({ initiator, luns }) =>
    luns
      .filter(({ name }) => name === lun.name)
      .flatMap((directory) => removeLinked(`${aclPath(iqn, initiator)}/${directory.name}`, directory)),
  );
  return [
    ...mapped,
    ...removeLinked(lunPath(iqn, lun.id), lun),
    ...(lun.backstore === undefined ? [] : removeBackstoreSteps(lun.backstore)),
  ];
}

/** The backstore, and the adapter that it has for itself. */
export function removeBackstoreSteps(path: string): Step[] {
  return [remove(path), remove(path.slice(0, path.lastIndexOf("/")))];
}

function removeLinked(path: string, { links }: LinkDirectory): Step[] {
  return [...links.map((link): Step => ({ do: "unlink", path: `${path}/${link}` })), remove(path)];
}

/** All of a target, in the reverse order of its making. Its sessions end with it. */
export function removeTargetSteps(iqn: string, state: TargetState): Step[] {
  const group = groupPath(iqn);
  if (!state.hasGroup) return [remove(targetPath(iqn))];
  return [
    write(`${group}/enable`, "0"),
    ...state.luns.flatMap((lun) => removeLunSteps(iqn, state, lun)),
    ...state.acls.map(({ initiator }) => remove(aclPath(iqn, initiator))),
    ...state.portals.map((portal) => remove(`${group}/np/${portal}`)),
    remove(group),
    remove(targetPath(iqn)),
  ];
}

/** The first number that no LUN has. */
export function freeLun(luns: readonly { readonly id: number }[]): number {
  const taken = new Set(luns.map(({ id }) => id));
  let id = 0;
  while (taken.has(id)) id += 1;
  return id;
}

/** The number of `lun_N`; undefined for anything else. */
export function lunId(name: string): number | undefined {
  const [, digits] = /^lun_(\d{1,5})$/.exec(name) ?? [];
  return digits === undefined ? undefined : Number(digits);
}

/** Where a link leads, from the target directory on: links of configfs are relative, with any number of steps up. */
export function backstoreOf(link: string): string | undefined {
  return /(?:^|\/)(core\/(?:fileio|iblock|rd_mcp|pscsi|user)_\d+\/[^/]+)\/?$/.exec(link)?.[1];
}

export const nameOf = (backstore: string) => backstore.slice(backstore.lastIndexOf("/") + 1);
export const isBlockstore = (backstore: string) => backstore.startsWith("core/iblock_");
export const isFilestore = (backstore: string) => backstore.startsWith("core/fileio_");

/** Bytes of a fileio backstore, from its attribute `info`. The name of its file stands before them, whatever it is. */
export function sizeOf(info: string): number | undefined {
  const [, digits] = /^.*\bSize:\s*(\d+)/s.exec(info) ?? [];
  return digits === undefined ? undefined : Number(digits);
}
