// Writes docs/errors.md from the table of error codes. usage: npm run docs
import { writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { errorCodes, type ErrorCode } from "../agent/driver/error-codes.ts";
import { AgentError, grpcAnswerOf } from "../agent/driver/errors.ts";
import { markdownTable } from "./markdown.ts";

/** Names of google.rpc.Code, as clients print them. */
const statusNames: Record<number, string> = {
  1: "CANCELLED",
  2: "UNKNOWN",
  3: "INVALID_ARGUMENT",
  4: "DEADLINE_EXCEEDED",
  5: "NOT_FOUND",
  8: "RESOURCE_EXHAUSTED",
  9: "FAILED_PRECONDITION",
  12: "UNIMPLEMENTED",
  13: "INTERNAL",
  14: "UNAVAILABLE",
  16: "UNAUTHENTICATED",
};

export function errorsDocument(): string {
  const rows = Object.entries(errorCodes).map(([code, { category, meaning }]) => {
    const { status } = grpcAnswerOf(new AgentError(code as ErrorCode, ""));
    return [`\`${code}\``, category, statusNames[status] ?? String(status), meaning];
  });
  return `# Error codes

Every error of the agent has one of these codes. Clients see the gRPC status and the error's text; the command line
prints the text and, where there is one, a hint. Exit codes: 2 for \`E_USAGE\`, 1 for any other.

This page is generated from \`agent/driver/error-codes.ts\` by \`npm run docs\`.

${markdownTable([["Code", "Category", "gRPC status", "When"], ...rows])}
`;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) writeFileSync("docs/errors.md", errorsDocument());
