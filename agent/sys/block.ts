import { AgentError } from "../driver/errors.ts";
import { loadKoffi, systemError } from "./native.ts";

/** Block devices beyond read and write. Numbers: linux/fs.h as x86, ARM and RISC-V have them; a test compares them with C's. */
export const requests = {
  BLKROGET: 0x125e,
  BLKFLSBUF: 0x1261,
  BLKSSZGET: 0x1268,
  BLKPBSZGET: 0x127b,
  BLKGETSIZE64: 0x80081272,
  BLKGETDISKSEQ: 0x80081280,
} as const;

/** linux/fadvise.h */
export const POSIX_FADV_DONTNEED = 4;

export interface BlockGeometry {
  readonly sizeBytes: number;
  /** What reads and writes past the page cache must be multiples of. */
  readonly logicalBlockBytes: number;
  readonly physicalBlockBytes: number;
  readonly readOnly: boolean;
  /** Of the medium: another one for every medium that the kernel has seen since it started. Undefined before Linux 5.15. */
  readonly diskSequence: bigint | undefined;
}

export interface BlockCalls {
  /** @param fd an open block device. @throws the system's error: ENOTTY for what is none */
  geometry(fd: number): BlockGeometry;
  /** Memory for reads and writes with O_DIRECT, aligned to `alignmentBytes` (a power of two); `shared`: with other threads. */
  alignedBuffer(bytes: number, options?: { readonly alignmentBytes?: number; readonly shared?: boolean }): Buffer;
  /** Has the page cache forget what it holds of a file or device; unwritten data stays. Without an effect where it cannot be done. */
  forget(fd: number): Promise<void>;
}

/** @throws AgentError E_UNSUPPORTED where native code cannot be loaded, or on a machine of 32 bits */
export async function loadBlockCalls(): Promise<BlockCalls> {
  const koffi = await loadKoffi();
  if (koffi.sizeof("long") !== 8) throw new AgentError("E_UNSUPPORTED", "disks are written on 64-bit Linux only");
  const libc = koffi.load(null);
  // Without the dots of its prototype, which koffi cannot call on a thread.
  const nativeIoctl = libc.func("int ioctl(int fd, unsigned long request, void *argument)");
  const fadvise = libc.func("int posix_fadvise(int fd, long offset, long length, int advice)");

  const ask = (fd: number, name: keyof typeof requests): bigint => {
    const answer = Buffer.alloc(8);
    const ioctl = nativeIoctl as unknown as (fd: number, request: number, argument: Buffer) => number;
    if (ioctl(fd, requests[name], answer) === -1) throw systemError(koffi.errno(), name);
    return answer.readBigUInt64LE();
  };
  const asked = (fd: number, name: keyof typeof requests): bigint | undefined => {
    try {
      return ask(fd, name);
    } catch {
      return undefined;
    }
  };
  return {
    geometry(fd) {
      const logicalBlockBytes = Number(ask(fd, "BLKSSZGET"));
      return {
        sizeBytes: Number(ask(fd, "BLKGETSIZE64")),
        logicalBlockBytes,
        physicalBlockBytes: Number(asked(fd, "BLKPBSZGET") ?? logicalBlockBytes),
        readOnly: asked(fd, "BLKROGET") === 1n,
        diskSequence: asked(fd, "BLKGETDISKSEQ"),
      };
    },
    alignedBuffer(bytes, { alignmentBytes = 4096, shared = false } = {}) {
      // An ArrayBuffer of its own, which the collector does not move.
      const memory = Buffer.from(new (shared ? SharedArrayBuffer : ArrayBuffer)(bytes + alignmentBytes));
      const beyond = Number(koffi.address(memory) % BigInt(alignmentBytes));
      const start = beyond === 0 ? 0 : alignmentBytes - beyond;
      return memory.subarray(start, start + bytes);
    },
    async forget(fd) {
      await new Promise<void>((resolve) => {
        fadvise.async(fd, 0, 0, POSIX_FADV_DONTNEED, () => {
          resolve();
        });
      });
      // Only for root, and only for block devices; the advice alone leaves pages that somebody else looks at just then.
      await new Promise<void>((resolve) => {
        nativeIoctl.async(fd, requests.BLKFLSBUF, null, () => {
          resolve();
        });
      });
    },
  };
}
