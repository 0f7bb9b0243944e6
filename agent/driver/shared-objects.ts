/** Something that several drivers of an exporter use together. */
export interface Shared {
  close?(): void | Promise<void>;
}

/** What drivers share, by key, with who has asked for it: an object lives as long as one of them. */
export class SharedObjects<User> {
  readonly #objects = new Map<string, { readonly object: Shared; readonly users: Set<User> }>();

  /** The object of this key, made on first use. From now on `user` is one of its users. */
  get<T extends Shared>(key: string, user: User, make: () => T): T {
    let known = this.#objects.get(key);
    if (known === undefined) {
      known = { object: make(), users: new Set() };
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
