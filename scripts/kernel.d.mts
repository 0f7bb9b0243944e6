/** The folder with `vmlinux`, `initramfs` and `modules/VERSION`, or undefined when it has not been made yet. */
export function kernelDirectory(): string | undefined;
/** Makes it, unless it is there. */
export function installKernel(): string;
