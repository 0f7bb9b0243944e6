import * as z from "zod";
import { AgentError } from "../../agent/driver/errors.ts";
import { isDigest, type Digest } from "../oci/digest.ts";

/** What a signature says, in the words of containers' simple signing as cosign uses it. */
export interface SignedStatement {
  /** `docker-manifest-digest`: the manifest or index that was signed. */
  readonly digest: Digest;
  /** `docker-reference`: the repository that it was signed for, without a tag; may be empty. */
  readonly repository: string;
}

const type = "cosign container image signature";
const payload = z.object({
  critical: z.object({
    type: z.literal(type),
    image: z.object({ "docker-manifest-digest": z.string() }),
    identity: z.object({ "docker-reference": z.string() }),
  }),
});

/** The bytes to sign. */
export function writePayload({ digest, repository }: SignedStatement): Buffer {
  const critical = {
    identity: { "docker-reference": repository },
    image: { "docker-manifest-digest": digest },
    type,
  };
  return Buffer.from(JSON.stringify({ critical, optional: null }));
}

/** @throws AgentError E_INVALID if it is something else */
export function readPayload(bytes: Uint8Array): SignedStatement {
  let document: unknown;
  try {
    document = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    throw new AgentError("E_INVALID", "what was signed is not JSON");
  }
  const parsed = payload.safeParse(document);
  const digest = parsed.data?.critical.image["docker-manifest-digest"];
  if (parsed.data === undefined || digest === undefined || !isDigest(digest)) {
    throw new AgentError("E_INVALID", "what was signed is no statement about an image");
  }
  return { digest, repository: canonical(parsed.data.critical.identity["docker-reference"]) };
}

/** Docker's own registry has two names. */
function canonical(repository: string): string {
  return repository.replace(/^index\.docker\.io\//, "docker.io/");
}
