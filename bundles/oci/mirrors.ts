import { Transform } from "node:stream";
import { AgentError } from "../../agent/driver/errors.ts";
import { verify, verifying, type Expected } from "./digest.ts";
import type { RegistryReference } from "./reference.ts";
import { isUnreachable } from "./retry.ts";
import type { Source } from "./source.ts";

/** Registry, with or without a namespace (`quay.io`, `quay.io/boards`) → its mirrors, each the same (`mirror.lab:5000/quay`). */
export type Mirrors = Readonly<Record<string, readonly string[]>>;

/** Where else a repository is to be had, in the order to ask. The longest name that fits says it. */
export function mirrorsOf(reference: RegistryReference, mirrors: Mirrors): RegistryReference[] {
  const whole = `${reference.host}/${reference.repository}`;
  const fitting = Object.keys(mirrors).filter((name) => whole === name || whole.startsWith(`${name}/`));
  const [name = ""] = fitting.sort((a, b) => b.length - a.length);
  return (mirrors[name] ?? []).map((mirror) => {
    const [host = "", ...names] = `${mirror}${whole.slice(name.length)}`.split("/");
    return { ...reference, host, repository: names.join("/") };
  });
}

export interface NamedSource {
  readonly name: string;
  readonly source: Source;
}

/**
 * A repository with mirrors. What a tag is, the registry says; mirrors only if it cannot be reached. Content is had from
 * the first mirror that has it, and checked: a mirror that breaks off or sends something else is not asked again.
 * @param onFailure is told why a mirror is not used any more
 */
export function withMirrors(
  origin: NamedSource,
  mirrors: readonly NamedSource[],
  onFailure: (mirror: string, error: AgentError) => void,
): Source {
  const useless = new Set<NamedSource>();
  const giveUp = (mirror: NamedSource, error: AgentError) => {
    if (!useless.has(mirror)) onFailure(mirror.name, error);
    useless.add(mirror);
  };
  const usable = () => mirrors.filter((mirror) => !useless.has(mirror));

  /** Asks one after the other, whoever is last says why there is nothing. */
  const first = async <T>(ask: (place: NamedSource) => Promise<T>, signal: AbortSignal): Promise<T> => {
    for (const mirror of usable()) {
      try {
        return await ask(mirror);
      } catch (error) {
        if (signal.aborted || !(error instanceof AgentError)) throw error;
        // What it has not, it has not; the rest of it may be good.
        if (error.code !== "E_INVALID") giveUp(mirror, error);
      }
    }
    return await ask(origin);
  };

  const tag = async <T>(ask: (place: NamedSource) => Promise<T>): Promise<T> => {
    try {
      return await ask(origin);
    } catch (error) {
      if (!isUnreachable(error)) throw error;
      for (const mirror of usable()) {
        try {
          return await ask(mirror);
        } catch (failure) {
          if (!(failure instanceof AgentError)) throw failure;
        }
      }
      throw error;
    }
  };

  return {
    resolve: (signal) => tag(({ source }) => source.resolve(signal)),
    tagged: (wanted, signal) => tag(({ source }) => source.tagged(wanted, signal)),
    manifest: async (digest, signal) =>
      await first(async ({ name, source }) => {
        const raw = await source.manifest(digest, signal);
        verify(raw.bytes, digest, `the manifest from ${name}`);
        return raw;
      }, signal),
    blob: async (expected, options) =>
      await first(async (place) => {
        const content = await place.source.blob(expected, options);
        if (place === origin) return content;
        const failed = (error: AgentError) => giveUp(place, error);
        const checked = checking(expected, options.from ?? 0, place.name, failed);
        content.on("error", (error) => checked.destroy(error));
        checked.on("close", () => content.destroy());
        return content.pipe(checked);
      }, options.signal),
    close: async () => {
      await Promise.all([origin, ...mirrors].map(({ source }) => source.close()));
    },
  };
}

/** Passes a mirror's content on. What is wrong with it can be had elsewhere: the reader may try again. */
function checking(expected: Expected, from: number, mirror: string, onFailure: (error: AgentError) => void): Transform {
  // The rest of a blob can only be checked by who has its beginning.
  const checked = from === 0 ? verifying(expected, `the blob from ${mirror}`) : passing();
  const destroy = checked._destroy.bind(checked);
  checked._destroy = (error, done) => {
    if (!(error instanceof AgentError)) return destroy(error, done);
    onFailure(error);
    destroy(new AgentError("E_CONNECTION", error.message, { cause: error }), done);
  };
  return checked;
}

const passing = () => new Transform({ transform: (chunk: Buffer, _encoding, done) => done(null, chunk) });
