import type { View } from "../views.ts";

/** What a board may fetch and leave over HTTP. */
export interface HttpView extends View {
  readonly limits?: Partial<HttpLimits>;
}

/** Of one view. */
export interface HttpLimits {
  readonly connections: number;
  /** Of `connections`, how many one address may have. */
  readonly connectionsPerPeer: number;
  /** A request must make progress in so long: a kilobyte, in whichever direction. */
  readonly stallMs: number;
}

export const defaultLimits: HttpLimits = { connections: 256, connectionsPerPeer: 16, stallMs: 600_000 };
