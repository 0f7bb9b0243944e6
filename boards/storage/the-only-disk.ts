import { DeviceOffline } from "../../agent/driver/errors.ts";

/**
 * @param nodes names of the disks of one device: `sda`
 * @returns `/dev/sda`; undefined for none
 * @throws DeviceOffline for several: one of them may be another board's
 */
export function theOnlyDisk(nodes: readonly string[], name: string): string | undefined {
  const [node, second] = nodes;
  if (second !== undefined) throw new DeviceOffline(`${name} has several disks: ${nodes.join(" and ")}`);
  return node === undefined ? undefined : `/dev/${node}`;
}
