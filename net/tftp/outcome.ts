/** How a transfer ended. */
export type Outcome =
  | { readonly kind: "complete" }
  /** The client said so, with an ERROR. */
  | { readonly kind: "refused"; readonly code: number; readonly message: string }
  | { readonly kind: "failed"; readonly reason: string };
