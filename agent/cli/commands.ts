import type { Commands } from "./command.ts";

/** Every command: one file, one line. */
export const commands: Commands = {
  run: {
    summary: "Serve the drivers of an exporter configuration",
    load: async () => (await import("./run.ts")).run,
  },
  check: {
    summary: "Check exporter configurations without touching hardware",
    load: async () => (await import("./check.ts")).check,
  },
  doctor: {
    summary: "Look for what keeps exporters from working: devices, permissions, ports, clock, controller",
    load: async () => (await import("./doctor.ts")).doctor,
  },
  suggest: {
    summary: "Print configuration for what is plugged in",
    load: async () => (await import("./suggest.ts")).suggest,
  },
  policy: {
    summary: "Print what systemd must allow the agent for the drivers of a configuration",
    load: async () => (await import("./policy.ts")).policy,
  },
  drivers: {
    summary: "List the drivers, or describe one",
    load: async () => (await import("./drivers.ts")).drivers,
  },
  flash: {
    summary: "Flash a board, by netboot or through a storage mux, and read its disk back",
    load: async () => (await import("./flash.ts")).flashBoard,
  },
  bundle: {
    summary: "Build, push, pull, verify and carry flasher bundles",
    load: async () => (await import("./bundle/commands.ts")).bundle,
  },
  receipts: {
    summary: "Show and verify what was flashed on this host",
    load: async () => (await import("./receipts/commands.ts")).receipts,
  },
  update: {
    summary: "Update the appliance: to its other system, on trial",
    load: async () => (await import("./update/commands.ts")).update,
  },
  dump: {
    summary: "Read the storage of a board into a file",
    load: async () => (await import("./dump.ts")).dump,
  },
  boot: {
    summary: "Serve boot files to boards over TFTP, HTTP and DHCP, without an exporter",
    load: async () => (await import("./boot.ts")).boot,
  },
  console: {
    summary: "Print what running and past agents have recorded of serial consoles",
    load: async () => (await import("./console.ts")).consoleLog,
  },
  status: {
    summary: "Show what the exporters of running agents do",
    load: async () => (await import("./status.ts")).status,
  },
  reload: {
    summary: "Let running agents take over changed configurations",
    load: async () => (await import("./reload.ts")).reload,
  },
  install: {
    summary: "Install this agent as a service, where there is no package for it",
    load: async () => (await import("./install.ts")).install,
  },
  uninstall: {
    summary: "Remove what install has installed",
    load: async () => (await import("./uninstall.ts")).uninstall,
  },
  appliance: {
    summary: "Apply or check the jumpstarter.yaml of a host that runs from the image",
    load: async () => (await import("./appliance/commands.ts")).appliance,
  },
  completion: {
    summary: "Print the script with which a shell completes these words",
    load: async () => (await import("./completion/completion.ts")).completionOf(commands),
  },
};
