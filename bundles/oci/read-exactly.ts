import { AgentError } from "../../agent/driver/errors.ts";
import { verify, type Expected } from "./digest.ts";
import type { Source } from "./source.ts";

/**
 * Reads a small blob whole, no more than its size.
 * @param name what errors call the content
 * @throws AgentError E_DIGEST if it is not what was promised; as {@link Source.blob}
 */
export async function readExactly(
  source: Source,
  expected: Expected,
  name: string,
  signal: AbortSignal,
): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of (await source.blob(expected, { signal })) as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > expected.size) break;
    chunks.push(chunk);
  }
  if (size !== expected.size) {
    const which = size > expected.size ? "longer" : "shorter";
    throw new AgentError("E_DIGEST", `${name} is ${which} than the ${expected.size} bytes it should have`);
  }
  const bytes = Buffer.concat(chunks);
  verify(bytes, expected.digest, name);
  return bytes;
}
