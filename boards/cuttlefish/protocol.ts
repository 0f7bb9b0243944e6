/** Paths and answers of Cuttlefish's host orchestrator (github.com/google/android-cuttlefish, frontend/src/host_orchestrator). */

const firstAdbPort = 6520;

export const adbPortOf = (instance: number) => firstAdbPort + instance - 1;

const segment = encodeURIComponent;
export const cvdPath = (group: string, name: string) => `/cvds/${segment(group)}/${segment(name)}`;
export const waitPath = (operation: string) => `/operations/${segment(operation)}/:wait`;

/** The name of the operation that an answer starts; undefined for an answer that is the result itself. */
export function operationOf(answer: unknown): string | undefined {
  if (typeof answer !== "object" || answer === null) return undefined;
  const { name, done } = answer as { name?: unknown; done?: unknown };
  return typeof name === "string" && name !== "" && done !== true && done !== undefined ? name : undefined;
}

/** Why a request failed, from the body of its answer: `{"error": …, "details": …}`, or whatever else it is. */
export function complaintOf(body: string): string {
  try {
    const { error, details } = JSON.parse(body) as { error?: unknown; details?: unknown };
    const parts = [error, details].filter((part): part is string => typeof part === "string" && part !== "");
    if (parts.length > 0) return parts.join(": ");
  } catch {
    // not JSON
  }
  return body.trim().slice(0, 300) || "no reason given";
}
