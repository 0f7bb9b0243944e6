/** The wanted modules and what they depend on, in an order in which they load; those built in are left out. */
export function modulesOf(kernel: string, wanted: readonly string[]): { name: string; content: Buffer }[];
