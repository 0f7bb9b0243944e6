import type { FromGuest, FromHost } from "../../messages.ts";

/** A folder that guest and host share, as the host's QEMU names it; in the guest it is /run/vm. */
export const folderOnHost = process.env["VM_FOLDER_ON_HOST"] ?? "";

let lastId = 0;

/** Has QEMU do something. Done with `device_del` only when the device has gone. Rejects with what QEMU has against it. */
export function qmp(command: string, args: object): Promise<unknown> {
  const id = ++lastId;
  return new Promise((resolve, reject) => {
    // A listener keeps the process alive, which it must not do for longer than the answer takes.
    const listener = (message: FromHost) => {
      if (message.type !== "qmp" || message.id !== id) return;
      process.removeListener("message", listener);
      if (message.error !== undefined) reject(new Error(message.error));
      else resolve(message.result);
    };
    process.on("message", listener);
    process.send?.({ type: "qmp", id, command, args } satisfies FromGuest);
  });
}
