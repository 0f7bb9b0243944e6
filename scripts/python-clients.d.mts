/** Releases of the Python client that the agent promises to serve. */
export const clientVersions: readonly string[];
/** The virtual environment of one release. */
export function clientDirectory(version: string): string;
/** Makes the missing environments. */
export function installClients(versions?: readonly string[]): void;
