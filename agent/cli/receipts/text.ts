/** What boards and files say of themselves may not move the cursor. */
export function printable(text: string): string {
  return text.replaceAll(/[^\x20-\x7e\u00a0-\uffff]/gu, "?");
}

export function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`;
}
