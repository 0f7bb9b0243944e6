import { defineCommand } from "./command.ts";
import { receiptOptions } from "./receipt-options.ts";
import { listenerOptions, readListeners } from "./listeners.ts";
import { operationsOptions, readOperations } from "./operations.ts";
import { runDirectly } from "./run-directly.ts";
import { runLeased } from "./run-leased.ts";

export const runOptions = {
  exporter: {
    type: "string",
    value: "ALIAS",
    multiple: true,
    help: "the configuration of this name in the user's or the system's directory",
  },
  "exporter-config": { type: "string", value: "PATH", multiple: true, help: "the configuration in this file" },
  all: { type: "boolean", help: "every configuration of the user's and the system's directory" },
  "exit-on-lease-end": { type: "boolean", help: "end after the first lease, as exitOnLeaseEnd in the configuration" },
  watch: { type: "boolean", help: "reload configurations when their files change" },
  "audit-log": { type: "string", value: "PATH", help: "write down who used what, as JSON lines" },
  ...receiptOptions,
  ...operationsOptions,
  ...listenerOptions,
} as const;

export const run = defineCommand({
  name: "run",
  summary: "Serve exporters: leased through their controller, or one directly on a listener.",
  options: runOptions,
  notes: `
Without a listener each exporter registers with the controller that its configuration names, and serves its leases.
Exporters of one process share its code and its connections, and nothing else.

Signals:
  SIGTERM, SIGINT, SIGQUIT  end leases in good order and stop; a second one stops at once
  SIGHUP                    stop when the current lease ends

Environment:
  JMP_PASSPHRASE           the passphrase, if neither option gives it
  JMP_NAME, JMP_NAMESPACE  the exporter's name and namespace, where the configuration gives none
  JMP_CLIENT_CONFIG_HOME   directory with exporters/ALIAS.yaml, instead of ~/.config/jumpstarter
  JMP_AGENT_J              the j that hooks find first on their PATH, instead of this agent's own
  JMP_PYTHON               the Python for hooks that are .py files, instead of python3

Examples:
  jmp-agent run --exporter bench
  jmp-agent run --all --watch
  jmp-agent run --exporter-config bench.yaml --unix /run/user/1000/bench.sock
  jmp-agent run --exporter bench --tls-grpc-listener 1234 --tls-cert bench.crt --tls-key bench.key`,

  async run(given) {
    const listeners = await readListeners(given, process.env);
    delete process.env["JMP_PASSPHRASE"];
    const operations = await readOperations(given, process.env);
    return listeners === undefined
      ? await runLeased(given, operations)
      : await runDirectly(given, listeners, operations);
  },
});
