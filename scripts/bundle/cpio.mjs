// The archive format of an initramfs (cpio "newc", see the kernel's Documentation/driver-api/early-userspace/buffer-format.rst).

const trailer = "TRAILER!!!";

/** @param entries {path, content?: Buffer|string, mode?: number, link?: string}; one without content is a folder */
export function cpio(entries) {
  const parts = entries.map((entry, index) => member(entry, index + 1));
  parts.push(member({ path: trailer, mode: 0, content: "" }, 0));
  return Buffer.concat(parts);
}

function member({ path, content, link, mode }, inode) {
  const data = Buffer.from(link ?? content ?? "");
  const type = path === trailer ? 0 : link !== undefined ? 0o120777 : content === undefined ? 0o040755 : 0o100000;
  const name = Buffer.from(`${path}\0`);
  const fields = [inode, type | (mode ?? (content === undefined ? 0 : 0o644)), 0, 0, 1, 0];
  fields.push(data.length, 0, 0, 0, 0, name.length, 0);
  const header = Buffer.from("070701" + fields.map((field) => field.toString(16).padStart(8, "0")).join(""));
  return Buffer.concat([padded(Buffer.concat([header, name])), padded(data)]);
}

function padded(bytes) {
  return Buffer.concat([bytes, Buffer.alloc((4 - (bytes.length % 4)) % 4)]);
}
