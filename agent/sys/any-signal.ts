/** What a signal was made of, for as long as it lives. */
const sources = new WeakMap<AbortSignal, readonly AbortSignal[]>();

/**
 * `AbortSignal.any()` that holds its sources. Node 24.21 asks the sources of a signal without listeners only when somebody asks the signal: one
 * that was aborted, and forgotten by everybody else, may have been collected by then, and the signal is never aborted at all.
 */
export function anySignal(signals: readonly AbortSignal[]): AbortSignal {
  // eslint-disable-next-line no-restricted-properties -- the one place
  const signal = AbortSignal.any([...signals]);
  if (!signal.aborted) sources.set(signal, signals);
  return signal;
}
