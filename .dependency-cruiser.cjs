/** The doors between the rooms; ARCHITECTURE.md says why. */
module.exports = {
  forbidden: [
    {
      name: "no-circles",
      severity: "error",
      from: {},
      to: { circular: true, viaOnly: { dependencyTypesNot: ["type-only"] } },
    },
    {
      name: "hardware-rooms-know-only-three-doors-of-the-agent",
      severity: "error",
      from: { path: "^(net|boards|bundles)/" },
      to: { path: "^agent/", pathNot: "^agent/(driver|stream|sys)/" },
    },
    {
      name: "rooms-meet-through-interfaces",
      comment: "net, boards and bundles may use each other's interface.ts only, and what lies in their own room",
      severity: "error",
      from: { path: "^(net|boards|bundles)/" },
      to: { path: "^(net|boards|bundles)/", pathNot: ["^$1/", "/interface\\.ts$"] },
    },
    {
      name: "the-appliance-knows-a-few-doors",
      comment:
        "the writer of disks, OCI artifacts and their signatures; of the agent what hardware rooms know, and how it reads its YAML",
      severity: "error",
      from: { path: "^appliance/" },
      to: {
        path: "^(agent|net|boards|bundles)/",
        pathNot: ["^agent/(driver|stream|sys|config)/", "^boards/storage/(block|image)/", "^bundles/(oci|signature)/"],
      },
    },
    {
      name: "only-the-command-line-knows-the-appliance",
      severity: "error",
      from: { path: "^(agent|net|boards|bundles)/", pathNot: "^agent/cli/" },
      to: { path: "^appliance/" },
    },
    {
      name: "the-core-knows-no-hardware",
      severity: "error",
      from: {
        path: "^agent/(driver|session|stream|config|controller|hooks|host|ops|sys)/",
        pathNot: "^agent/driver/catalog\\.ts$",
      },
      to: { path: "^(net|boards|bundles)/" },
    },
    {
      name: "a-session-knows-nobody-above-it",
      comment:
        "controller, hooks, host, ops and cli stand on the session; the words of the command line reach none of them",
      severity: "error",
      from: { path: "^agent/(driver|stream|session|client|config|sys)/" },
      to: { path: "^agent/(controller|hooks|host|ops|cli)/" },
    },
    {
      name: "leases-know-no-process",
      comment: "agent/host puts exporters into a process; leases, hooks and the audit log work without it",
      severity: "error",
      from: { path: "^agent/(controller|hooks|ops)/" },
      to: { path: "^agent/(host|cli)/" },
    },
    {
      name: "the-host-is-not-the-command-line",
      severity: "error",
      from: { path: "^agent/host/" },
      to: { path: "^agent/cli/" },
    },
    {
      name: "catalog-loads-lazily",
      severity: "error",
      from: { path: "^agent/driver/catalog\\.ts$" },
      to: { path: "^(net|boards|bundles)/", dependencyTypesNot: ["dynamic-import"] },
    },
    {
      name: "protocols-are-pure",
      comment: "protocol.ts: frames and numbers, nothing of Node",
      severity: "error",
      from: { path: "/protocol\\.ts$" },
      to: { dependencyTypes: ["core"] },
    },
    { name: "tests-stay-outside", severity: "error", from: { pathNot: "^(test|scripts)/" }, to: { path: "^test/" } },
  ],
  options: {
    doNotFollow: { path: "node_modules" },
    tsConfig: { fileName: "tsconfig.json" },
    tsPreCompilationDeps: true,
    exclude: { path: "^(dist|coverage)/" },
  },
};
