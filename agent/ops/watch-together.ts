import type { SessionObserver } from "../session/observer.ts";
import type { AuditLog } from "./audit.ts";

/** Several observers as one; undefined for none. */
export function observeTogether(...observers: (SessionObserver | undefined)[]): SessionObserver | undefined {
  const all = observers.filter((observer) => observer !== undefined);
  if (all.length < 2) return all[0];
  return {
    call: (done) => all.forEach((observer) => observer.call(done)),
    stream: (done) => all.forEach((observer) => observer.stream(done)),
    resource: (done) => all.forEach((observer) => observer.resource(done)),
  };
}

type LeaseWatcher = Pick<AuditLog, "begin">;

/** Several who are told of leases as one; undefined for none. */
export function watchLeasesTogether(...watchers: (LeaseWatcher | undefined)[]): LeaseWatcher | undefined {
  const all = watchers.filter((watcher) => watcher !== undefined);
  if (all.length < 2) return all[0];
  return {
    begin(lease) {
      const begun = all.map((watcher) => watcher.begin(lease));
      return {
        call: (done) => begun.forEach((watcher) => watcher.call(done)),
        stream: (done) => begun.forEach((watcher) => watcher.stream(done)),
        resource: (done) => begun.forEach((watcher) => watcher.resource(done)),
        client: (name) => begun.forEach((watcher) => watcher.client(name)),
        event: (name, fields) => begun.forEach((watcher) => watcher.event(name, fields)),
        end: (how) => begun.forEach((watcher) => watcher.end(how)),
      };
    },
  };
}
