import { systemError, type Koffi } from "./native.ts";

/** ioctl on a thread of its own, for devices that take their time. What `argument` points to must live until it is done. */
export type Ioctl = (fd: number, request: number, name: string, argument: Buffer | bigint) => Promise<number>;

/** The call answers what ioctl returned, or rejects with the system's error, which has `name` as its `syscall`. */
export function asyncIoctl(koffi: Koffi): Ioctl {
  // Declared without the dots of its prototype, which koffi cannot call on a thread; integers and pointers are passed alike.
  const libc = koffi.load(null);
  const withPointer = libc.func("int ioctl(int fd, unsigned long request, void *argument)");
  const withNumber = libc.func("int ioctl(int fd, unsigned long request, unsigned long argument)");
  return (fd, request, name, argument) =>
    new Promise((resolve, reject) => {
      const ioctl = typeof argument === "bigint" ? withNumber : withPointer;
      ioctl.async(fd, request, argument, (error: Error | null, result: number) => {
        const errno = koffi.errno();
        // Named here, so that it is not collected while the thread works with it.
        void argument;
        if (error !== null) reject(error);
        else if (result === -1) reject(systemError(errno, name));
        else resolve(result);
      });
    });
}
