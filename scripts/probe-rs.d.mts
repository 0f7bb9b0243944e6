export function builtProbeRs(): string | undefined;
