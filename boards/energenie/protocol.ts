/** Pages of the EnerGenie EG-PMS2-LAN, as the labgrid project (power/eg_pms2_network.py) reads them. */

/** The power strip has this many sockets. */
export const slots = 4;

/** Body of `POST /login.html`. */
export function loginBody(password: string): string {
  return new URLSearchParams({ pw: password }).toString();
}

/** Body of `POST /`. */
export function switchBody(slot: number, on: boolean): string {
  return `cte${slot}=${on ? 1 : 0}`;
}

/** A refused login is a page as well, with status 200: only this link tells them apart. */
export function isLoggedIn(page: string): boolean {
  return /login\.html["']?\s*>\s*Log ?Out/i.test(page);
}

/** `GET /energenie.html` @returns the sockets in order, or undefined if the page does not show all of them */
export function socketStates(page: string): boolean[] | undefined {
  const list = /\bsockstates\s*=\s*\[([\s01,]*)\]/.exec(page)?.[1];
  const states = list?.split(",").map((state) => state.trim());
  if (states?.length !== slots || !states.every((state) => state === "0" || state === "1")) return undefined;
  return states.map((state) => state === "1");
}
