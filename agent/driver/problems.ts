import type * as z from "zod";
import { closest } from "./closest.ts";
import type { ConfigProblem } from "./entry.ts";

type Issue = z.core.$ZodIssue;

/**
 * Every problem of a failed check of something that stands at `at`, each with its own path, in words for people.
 * @param known the keys it may have, to guess what a mistyped one was meant to be
 */
export function problemsOf(
  error: z.ZodError,
  at: ConfigProblem["path"],
  known: readonly string[] = [],
): ConfigProblem[] {
  return error.issues.flatMap((issue): ConfigProblem[] => {
    const path = [...at, ...(issue.path as (string | number)[])];
    if (issue.code !== "unrecognized_keys") return [{ path, message: describeIssue(issue) }];
    // The keys of inner maps are not at hand here; guessing from the outer ones would mislead.
    const candidates = issue.path.length === 0 ? known : [];
    return issue.keys.map((key) => ({ path: [...path, key], message: unknownKey(key, candidates), aboutKey: true }));
  });
}

/** What to say about a key that nobody knows. */
export function unknownKey(key: string, known: readonly string[]): string {
  const meant = closest(key, known);
  if (meant !== undefined) return `unknown key, did you mean ${meant}?`;
  return known.length > 0 ? `unknown key, allowed are ${known.join(", ")}` : "unknown key";
}

const typeNames: Record<string, string> = { record: "map", object: "map", array: "list", int: "whole number" };

function describeIssue(issue: Issue): string {
  if (issue.code === "invalid_union" && issue.message === "Invalid input") {
    const options = issue.errors.map((issues) => issues.map(describeIssue).join(", "));
    return [...new Set(options)].join("; or ");
  }
  // A schema's own words stay as they are.
  const [, allowed, received] =
    /^Invalid (?:input|option): expected (.+?)(?:, received (\w+))?$/.exec(issue.message) ?? [];
  if (allowed === undefined) return issue.message;
  const type = typeNames[allowed] ?? allowed.replaceAll("|", ", ");
  if (received === undefined) return `must be ${type}`;
  return received === "undefined"
    ? `is missing, must be a ${type}`
    : `must be a ${type}, not ${typeNames[received] ?? received}`;
}
