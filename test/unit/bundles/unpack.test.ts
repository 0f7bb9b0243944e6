import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { lstat, mkdir, readFile, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Readable } from "node:stream";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { fileOf } from "../../../bundles/bundle.ts";
import { confinedPath } from "../../../bundles/paths.ts";
import { Unpacker } from "../../../bundles/unpack.ts";
import { temporaryDirectory } from "../../sim/bundle.ts";
import { tarOf, type SimulatedEntry } from "../../sim/tar.ts";
import { buildTraversalTree, refusedNames, secret, servedNames } from "../../sim/traversal.ts";

const signal = new AbortController().signal;

const packers = {
  gzip: (archive: Buffer) => gzipSync(archive),
  zstd: (archive: Buffer) => execFileSync("zstd", ["-q", "-c"], { input: archive, maxBuffer: 2 ** 30 }),
};

/** Unpacks an archive as a layer of a bundle that may have a gigabyte. */
async function unpack(
  into: string,
  archive: Buffer,
  path = "",
  encoding: keyof typeof packers | null = "gzip",
): Promise<string[]> {
  const unpacker = new Unpacker(into, 2 ** 30);
  const content = encoding === null ? archive : packers[encoding](archive);
  const layer = { kind: "archive", encoding, path, digest: `sha256:${"0".repeat(64)}`, size: content.length } as const;
  await unpacker.archive(layer, Readable.from([content]), "the archive", signal);
  return unpacker.files.map((file) => file.path).sort();
}

/** Everything below a directory; links are not followed. */
async function contents(directory: string): Promise<string[]> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true });
  for (const entry of entries) assert.ok(entry.isFile() || entry.isDirectory(), `${entry.name} is neither`);
  return entries.map((entry) => join(entry.parentPath, entry.name)).sort();
}

test("archives of GNU tar in all its formats are unpacked", async (t) => {
  const base = await temporaryDirectory(t);
  const long = `${"directory/".repeat(11)}${"n".repeat(120)}`;
  await mkdir(join(base, "source/data", "directory/".repeat(11)), { recursive: true });
  await writeFile(join(base, "source/data/kernel"), Buffer.alloc(100_000, 7));
  await writeFile(join(base, "source/data/empty"), "");
  await writeFile(join(base, "source/data", long), "long");
  for (const format of ["gnu", "oldgnu", "pax"]) {
    const archive = execFileSync("tar", ["-C", join(base, "source"), `--format=${format}`, "-c", "."], {
      maxBuffer: 2 ** 24,
    });
    const into = join(base, format);
    assert.deepEqual(
      await unpack(into, archive, "top"),
      [`top/data/${long}`, "top/data/empty", "top/data/kernel"].sort(),
    );
    assert.deepEqual(await readFile(join(into, "top/data/kernel")), Buffer.alloc(100_000, 7));
    assert.equal(await readFile(join(into, "top/data", long), "utf8"), "long");
    assert.equal((await lstat(join(into, "top/data/kernel"))).mode & 0o7777, 0o644);
  }
});

test("no name in an archive leads out of the bundle", async (t) => {
  const base = await temporaryDirectory(t);
  const names = [...refusedNames(base), ...servedNames, "a\0b", "\x7f", "é/ü", "\u202etxt"];
  const ways: ((name: string) => SimulatedEntry)[] = [
    (name) => ({ name, content: "evil" }),
    (name) => ({ name, type: "5" }),
    (name) => ({ name: "short", pax: { path: name }, content: "evil" }),
    (name) => ({ name: "short", longName: name, content: "evil" }),
  ];
  await mkdir(join(base, "home"));
  await writeFile(join(base, "home", "canary"), secret);
  let cases = 0;
  for (const name of names) {
    for (const way of ways) {
      const into = join(base, "home", `bundle-${(cases += 1)}`);
      const files = await unpack(into, tarOf([way(name)])).catch((error: { code: string }) => {
        assert.ok(["E_INVALID", "E_IO"].includes(error.code), `${JSON.stringify(name)}: ${error.code}`);
        return [];
      });
      for (const file of files) assert.equal(confinedPath(file), file);
    }
  }
  assert.ok(cases >= 200);
  for (const path of await contents(join(base, "home"))) {
    if (path.endsWith("canary")) assert.equal(await readFile(path, "utf8"), secret);
    else assert.match(path, /\/home\/bundle-\d+/);
  }
  assert.deepEqual((await readdir(base)).sort(), ["home"]);
});

test("an archive's links, devices, owners and modes do not come into being", async (t) => {
  const base = await temporaryDirectory(t);
  for (const type of ["1", "2", "3", "4", "6", "S", "V", "M", "?"]) {
    const archive = tarOf([
      { name: "link", type, linkName: "/etc/passwd" },
      { name: "link/x", content: "evil" },
    ]);
    await assert.rejects(unpack(join(base, "refused"), archive), {
      code: "E_INVALID",
      message: /neither a file nor a directory/,
    });
  }
});

test("archives are unpacked as they are packed: with gzip, with zstd, or not at all", async (t) => {
  const base = await temporaryDirectory(t);
  const archive = tarOf([{ name: "data/kernel", content: "k".repeat(100_000) }]);
  for (const encoding of ["gzip", "zstd", null] as const) {
    const into = join(base, String(encoding));
    assert.deepEqual(await unpack(into, archive, "", encoding), ["data/kernel"]);
    assert.equal(await readFile(join(into, "data/kernel"), "utf8"), "k".repeat(100_000));
  }
  const unpacker = new Unpacker(join(base, "damaged"), 2 ** 30);
  for (const encoding of ["gzip", "zstd"] as const) {
    const content = packers[encoding](archive);
    for (const damaged of [Buffer.from("none"), content.subarray(0, -5), Buffer.alloc(0)]) {
      const layer = { kind: "archive", encoding, path: "", digest: `sha256:${"0".repeat(64)}`, size: 9 } as const;
      await assert.rejects(unpacker.archive(layer, Readable.from([damaged]), "the archive", signal), {
        code: "E_INVALID",
        message: `the archive is not ${encoding}, or damaged`,
      });
    }
  }
});

test("bombs of every kind are refused before they fill the disk", async (t) => {
  const base = await temporaryDirectory(t, "/dev/shm");
  const many = (entry: (index: number) => SimulatedEntry, count = 10_001) =>
    Array.from({ length: count }, (_, i) => entry(i));
  const bombs: Record<string, [SimulatedEntry[], RegExp]> = {
    "a large file": [[{ name: "zeros", size: 65 * 2 ** 20 }], /unpacks to more than 67108864 bytes/],
    "many files": [many((i) => ({ name: `f${i}` })), /10000 files and directories/],
    "many directories": [many((i) => ({ name: `d${i}`, type: "5" })), /10000 files and directories/],
    "deep directories": [
      many((i) => ({ name: "x", pax: { path: `${i}/${"d/".repeat(200)}f` } }), 60),
      /10000 files and directories/,
    ],
    "a long path": [[{ name: "x", pax: { path: "d/".repeat(2_000) } }], /longer than 1024 bytes/],
    "headers only": [many(() => ({ name: "g", type: "g", content: "9 a=bcde\n" }), 70_000), /unpacks to more than/],
    "a header that is too large": [[{ name: "g", type: "g", size: 65 * 1024 }], /overlong header/],
  };
  for (const [what, [entries, message]] of Object.entries(bombs)) {
    await assert.rejects(unpack(join(base, what.replaceAll(" ", "-")), tarOf(entries)), { message }, what);
  }
});

test("pax headers that would make a file something else are refused", async (t) => {
  const base = await temporaryDirectory(t);
  const header = (content: string): SimulatedEntry[] => [
    { name: "pax", type: "x", content },
    { name: "file", content: "x" },
  ];
  const tricks: [string, RegExp][] = [
    ["22 GNU.sparse.major=1\n", /sparse file/],
    ["11 size=-1\n", /no clear size/],
    ["13 size=1e99\n", /no clear size/],
    ["99 path=x\n", /malformed pax header/],
    ["0 path=x\n", /malformed pax header/],
    ["path=x\n", /malformed pax header/],
    ["9 path=xy", /malformed pax header/],
    ["-9 path=x\n", /malformed pax header/],
    ["8 =path\n\n", /malformed pax header/],
    ["19 path=../../evil\n", /no path inside the bundle/],
  ];
  for (const [content, message] of tricks) {
    await assert.rejects(
      unpack(join(base, "refused"), tarOf(header(content))),
      { code: "E_INVALID", message },
      content,
    );
  }
  assert.deepEqual(await unpack(join(base, "good"), tarOf(header("15 path=a/name\n"))), ["a/name"]);
});

test("no path of a manifest reads outside a bundle's directory", async (t) => {
  const base = await temporaryDirectory(t);
  const { root } = await buildTraversalTree(base);
  const bundle = { reference: "file:x", digest: undefined, directory: root, release: () => {} };
  for (const name of refusedNames(base)) {
    const path = confinedPath(name);
    if (path === undefined) continue;
    const file = await fileOf(bundle, path).catch((error: { code: string }) => {
      assert.ok(["E_INVALID", "ENAMETOOLONG"].includes(error.code), name);
      return undefined;
    });
    if (file !== undefined) assert.notEqual(await readFile(file, "utf8"), secret, name);
  }
});
