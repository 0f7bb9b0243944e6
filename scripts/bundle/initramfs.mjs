// A system that fits in 1 MB: busybox, the modules of a virtual machine's disk and network card, a login on the console.
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { cpio } from "./cpio.mjs";

/** What the board needs; what these need in turn is found in the modules themselves. */
const wantedModules = ["virtio_pci", "virtio_mmio", "virtio_net", "virtio_blk"];

const leaseScript = `#!/bin/sh
case "$1" in
deconfig) ip addr flush dev "$interface"; ip link set "$interface" up ;;
bound|renew)
  ip addr add "$ip/\${mask:-24}" dev "$interface" 2>/dev/null
  [ -n "$router" ] && ip route replace default via "\${router%% *}" dev "$interface"
  : > /etc/resolv.conf
  for server in $dns; do echo "nameserver $server" >> /etc/resolv.conf; done ;;
esac
exit 0
`;

// Debian's busybox has no curl: the few options with which clients fetch an image, said to wget. A range is only asked
// for to see whether the server answers.
const curlScript = `#!/bin/sh
out=- url= header= spider=
while [ $# -gt 0 ]; do
  case "$1" in
  -o|--output) out=$2; shift ;;
  -H|--header) header=$2; shift ;;
  -r|--range) spider=--spider; shift ;;
  --max-time|--connect-timeout|--cacert|--retry) shift ;;
  -*) ;;
  *) url=$1 ;;
  esac
  shift
done
exec wget -q $spider \${header:+--header "$header"} -O "$out" "$url"
`;

/**
 * @param hostname shows before `login:`; root needs no password
 * @param console serial port of the machine, as Linux names it
 */
export function initramfs({ busybox, kernel, hostname, console = "ttyAMA0" }) {
  const modules = modulesOf(kernel, wantedModules);
  const startup = [
    "#!/bin/busybox sh",
    "/bin/busybox --install -s /bin",
    "mount -t proc proc /proc",
    "mount -t sysfs sys /sys",
    "mount -t devtmpfs dev /dev",
    ...modules.map(({ name }) => `insmod /lib/modules/${name}.ko`),
    `hostname ${hostname}`,
    "ip link set lo up",
    "",
  ].join("\n");
  const folders = ["bin", "dev", "etc", "etc/udhcpc", "lib", "lib/modules", "proc", "root", "sbin", "sys", "tmp"];
  return gzipSync(
    cpio([
      ...folders.map((path) => ({ path })),
      { path: "bin/busybox", content: readFileSync(busyboxIn(busybox)), mode: 0o755 },
      { path: "init", link: "bin/busybox" },
      { path: "sbin/init", link: "../bin/busybox" },
      { path: "bin/curl", content: curlScript, mode: 0o755 },
      { path: "etc/startup", content: startup, mode: 0o755 },
      {
        path: "etc/inittab",
        content: `::sysinit:/etc/startup\n${console}::respawn:getty -L 115200 ${console} vt100\n`,
      },
      // The Python client takes the line before the prompt for a command's result: nothing else may be in the prompt.
      { path: "etc/profile", content: "PS1='# '\n" },
      { path: "etc/passwd", content: "root::0:0:root:/root:/bin/sh\n" },
      { path: "etc/group", content: "root:x:0:\n" },
      { path: "etc/udhcpc/default.script", content: leaseScript, mode: 0o755 },
      ...modules.map(({ name, content }) => ({ path: `lib/modules/${name}.ko`, content })),
    ]),
    { level: 9 },
  );
}

function busyboxIn(directory) {
  return ["bin/busybox", "usr/bin/busybox"].map((path) => join(directory, path)).find((path) => existsSync(path));
}

/**
 * The wanted modules and what they depend on, in an order in which they load; those built in are left out.
 * @param kernel folder that a kernel package is unpacked in
 * @returns {{ name: string, content: Buffer }[]}
 */
export function modulesOf(kernel, wanted) {
  const files = new Map();
  const folder = ["lib/modules", "usr/lib/modules"].map((path) => join(kernel, path)).find((path) => existsSync(path));
  for (const file of readdirSync(folder, { recursive: true })) {
    const [, name] = /([^/]+)\.ko(\.xz)?$/.exec(file) ?? [];
    if (name !== undefined) files.set(name.replaceAll("-", "_"), join(folder, file));
  }
  const ordered = new Map();
  const add = (name) => {
    const file = files.get(name);
    if (file === undefined || ordered.has(name)) return;
    const content = file.endsWith(".xz")
      ? execFileSync("xz", ["-dc", file], { maxBuffer: 2 ** 26 })
      : readFileSync(file);
    const [, depends = ""] = /\0depends=([^\0]*)\0/.exec(content.toString("latin1")) ?? [];
    for (const needed of depends.split(",").filter(Boolean)) add(needed.replaceAll("-", "_"));
    ordered.set(name, { name, content });
  };
  for (const name of wanted) add(name);
  return [...ordered.values()];
}
