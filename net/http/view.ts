import type { Uploads } from "../uploads.ts";
import type { View } from "../views.ts";

/** What a board may fetch over HTTP, and whether it may leave files. */
export interface HttpView extends View {
  /** Where `PUT /uploads/NAME` goes; without it, none is taken. */
  readonly uploads?: Uploads | undefined;
  readonly limits?: Partial<HttpLimits>;
}

/** Of one view. */
export interface HttpLimits {
  readonly connections: number;
  /** Of `connections`, how many one address may have. */
  readonly connectionsPerPeer: number;
  /** A transfer must make progress in so long. */
  readonly stallMs: number;
}

export const defaultLimits: HttpLimits = { connections: 256, connectionsPerPeer: 16, stallMs: 600_000 };
