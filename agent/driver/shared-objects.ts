import { AsyncLocalStorage } from "node:async_hooks";

/** Something that several drivers use together. */
export interface Shared {
  close?(): void | Promise<void>;
}

/** What drivers share, by key, with who has asked for it: an object lives as long as one of them. */
export class SharedObjects<User extends object> {
  readonly #objects = new Map<string, { readonly object: Shared; readonly users: Set<User> }>();
  /** What is shared belongs to none of its users: it is made outside the async context of the one who came first. */
  readonly #outside = AsyncLocalStorage.snapshot();

  /** The object of this key, made on first use. From now on `user` is one of its users. */
  get<T extends object>(key: string, user: User, make: () => T): T {
    let known = this.#objects.get(key);
    if (known === undefined) {
      known = { object: this.#outside(make), users: new Set() };
      this.#objects.set(key, known);
    }
    known.users.add(user);
    return known.object as T;
  }

  /** These users are gone. @returns what nobody uses any more; the caller closes it */
  leave(gone: Iterable<User>): Shared[] {
    const left = [...gone];
    const unused: Shared[] = [];
    for (const [key, { object, users }] of this.#objects) {
      for (const user of left) users.delete(user);
      if (users.size > 0) continue;
      this.#objects.delete(key);
      unused.push(object);
    }
    return unused;
  }
}
