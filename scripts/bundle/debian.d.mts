/** Where downloads are kept. */
export function cacheDirectory(): string;
/** Downloads and unpacks packages, once. @returns the folder each is unpacked in, by key */
export function unpackPackages<Key extends string>(
  names: Readonly<Record<Key, string>>,
  architecture: string,
): Record<Key, string>;
