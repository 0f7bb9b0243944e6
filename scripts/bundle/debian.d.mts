export function cacheDirectory(): string;
/** Downloads and unpacks packages, once. @returns the folder each is unpacked in, by key */
export function unpackPackages<K extends string>(names: Record<K, string>, architecture: string): Record<K, string>;
/** Where this machine has its own release of Debian from. */
export function ownMirror(): string;
/** Signs Debian's own releases. */
export const keyring: string;
