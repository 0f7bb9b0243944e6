/** Where the doctor finds the machine. Tests have one of their own. */
export interface HostRoots {
  readonly sys: string;
  readonly proc: string;
  readonly dev: string;
  readonly etc: string;
  /** Where the kernel's modules are: `modules/RELEASE/…`. */
  readonly lib: string;
  readonly run: string;
}

export const thisHost: HostRoots = {
  sys: "/sys",
  proc: "/proc",
  dev: "/dev",
  etc: "/etc",
  lib: "/lib",
  run: "/run",
};
