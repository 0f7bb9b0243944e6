/** Small things that all parts of the page need. Text that boards and clients chose only ever becomes text. */

/** The element of this id. */
export const byId = (id) => document.getElementById(id);

/** Makes an element. @param properties of the element itself; `class` and attributes with a dash or `role` are set as such */
export function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (key === "class") element.className = value;
    else if (key.includes("-") || key === "role" || key === "for") element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children.filter((child) => child !== undefined && child !== null && child !== false));
  return element;
}

/** In the units of the SI. */
export function sizeText(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  const units = ["kB", "MB", "GB", "TB"];
  const power = Math.min(Math.floor(Math.log10(bytes) / 3), units.length);
  return `${(bytes / 1000 ** power).toFixed(1)} ${units[power - 1]}`;
}

/** `42 s`, `3 min 05 s`, `2 h 07 min`, `3 d 4 h` */
export function durationText(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const two = (count) => String(count).padStart(2, "0");
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${two(Math.floor((whole % 3600) / 60))} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

/** A moment, short if it is of today. */
export function timeText(iso) {
  const time = new Date(iso);
  const clock = time.toLocaleTimeString([], { hour12: false });
  const isToday = time.toDateString() === new Date().toDateString();
  return isToday ? clock : `${time.toLocaleDateString()} ${clock}`;
}

/**
 * Makes a list's children be what items say, in their order. Those that stay are left where they are, with what a reader has opened or
 * focused in them.
 */
export function showList(list, items, keyOf, show) {
  const known = new Map([...list.children].map((child) => [child.dataset.key, child]));
  let place = list.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    const former = known.get(key);
    known.delete(key);
    const element = show(item, former);
    element.dataset.key = key;
    if (element === place) place = place.nextElementSibling;
    else if (former !== undefined && element !== former && former === place) {
      place = place.nextElementSibling;
      former.replaceWith(element);
    } else list.insertBefore(element, place);
  }
  for (const gone of known.values()) gone.remove();
}

/** Asks the agent. @throws Error with what it says is wrong */
export async function ask(path, options = {}) {
  const response = await fetch(path, { cache: "no-store", ...options });
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  throw Object.assign(new Error(told.error ?? `${response.status} ${response.statusText}`), {
    status: response.status,
  });
}
