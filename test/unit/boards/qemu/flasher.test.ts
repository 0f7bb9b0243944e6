// What is flashed, and what QEMU's tools make of it. No machine runs here.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { basename, join } from "node:path";
import { Readable } from "node:stream";
import { describe, test, type TestContext } from "node:test";
import { growImage, inspectImage } from "../../../../boards/qemu/images.ts";
import { makeOwnedFolder } from "../../../../boards/qemu/owned-folder.ts";
import { WorkFolder } from "../../../../boards/qemu/work.ts";
import { scratch } from "../../../sim/agent.ts";
import { noQemu, startQemu } from "../../../sim/qemu.ts";
import { hole, raw, sparseImage } from "../../../sim/sparse-image.ts";
import { until } from "../../../sim/tftp.ts";

const { signal } = new AbortController();
const qemuImg = (...words: string[]) => execFileSync("qemu-img", words, { encoding: "utf8", stdio: "pipe" });
const image = (content: string, ...more: Buffer[]) =>
  Buffer.concat([Buffer.from(content), randomBytes(200_000), ...more]);

describe("flashing", { skip: noQemu() }, () => {
  test("an image is unpacked by what it is, and dumped as it lies there", async (t) => {
    const machine = await startQemu(t);
    const plain = image("plain");
    const path = join(scratch(t), "image");
    writeFileSync(path, plain);
    for (const packer of ["cat", "gzip", "xz", "bzip2", "zstd"]) {
      const words = packer === "cat" ? [path] : ["-c", path];
      await machine.flash(execFileSync(packer, words, { maxBuffer: 2 ** 24 }), "OVMF_CODE.fd");
      assert.ok((await machine.dump("OVMF_CODE.fd")).equals(plain), packer);
    }
    await machine.flash(Buffer.from("tiny"));
    assert.equal((await machine.dump("root")).toString(), "tiny");
    assert.equal((await machine.dump()).toString(), "tiny", "the root image is meant when none is named");
  });

  test("an Android sparse image is what it stands for, with the hole at its end", async (t) => {
    const machine = await startQemu(t);
    const start = randomBytes(4096);
    await machine.flash(sparseImage([raw(start), hole(3)]));
    assert.ok((await machine.dump()).equals(Buffer.concat([start, Buffer.alloc(3 * 4096)])));
  });

  test("a flash that breaks off changes nothing", async (t) => {
    const machine = await startQemu(t);
    await machine.flash(Buffer.from("whole"));
    const packed = execFileSync("gzip", ["-c"], { input: image("packed") });
    await assert.rejects(machine.flash(packed.subarray(0, -100)), /gzip: unexpected end of file/);
    const broken = Readable.from(
      (async function* () {
        yield randomBytes(300_000);
        await new Promise(setImmediate);
        throw new Error("the client's disk broke");
      })(),
      { objectMode: false },
    );
    const node = machine.client.find("qemu.flasher");
    await assert.rejects(async () => node?.lendSource(broken, (handle) => machine.flasher.flash(handle), {}));
    assert.equal((await machine.dump()).toString(), "whole");
    assert.deepEqual(filesOf(machine.folder), ["root"]);
  });

  test("default partitions are dumped until something is flashed in their place, and are left alone", async (t) => {
    const path = join(scratch(t), "default");
    writeFileSync(path, "default");
    const machine = await startQemu(t, { default_partitions: { root: path } });
    assert.equal((await machine.dump()).toString(), "default");
    await machine.flash(Buffer.from("flashed"));
    assert.equal((await machine.dump()).toString(), "flashed");
    assert.equal(readFileSync(path, "utf8"), "default");
    await machine.exporter.tree.release();
    assert.equal((await machine.dump()).toString(), "default", "a lease's images go with it");
    await assert.rejects(machine.dump("bios"), { code: "E_IO", message: /No such file or directory/ });
  });

  test("what a lease has flashed goes at its end, and the work folder with the exporter", async (t) => {
    const machine = await startQemu(t);
    await machine.flash(Buffer.from("x"), "bios");
    const [first] = readdirSync(machine.folder);
    assert.equal(statSync(join(machine.folder, first ?? "")).mode & 0o777, 0o700);
    await machine.exporter.tree.release();
    await machine.exporter.tree.release();
    assert.deepEqual(readdirSync(machine.folder), []);
    await machine.flash(Buffer.from("x"), "bios");
    assert.notDeepEqual(readdirSync(machine.folder), [first]);
    await machine.exporter.close();
    assert.deepEqual(readdirSync(machine.folder), []);
  });

  test("names of partitions are those of the Python driver", async (t) => {
    const machine = await startQemu(t);
    for (const name of ["Root", "../root", "OVMF_CODE"]) {
      await assert.rejects(machine.flash(Buffer.from("x"), name), { message: `invalid partition name: ${name}` });
      await assert.rejects(machine.dump(name), { message: `invalid partition name: ${name}` });
    }
    await assert.rejects(machine.flasher.flash("file:///etc/passwd"), /OCI URL must start with oci:\/\//);
  });
});

/** What the only lease has put there. */
function filesOf(folder: string): string[] {
  const files = readdirSync(folder).flatMap((lease) => readdirSync(join(folder, lease)));
  return files.filter((name) => name !== ".lock");
}

describe("work folders", () => {
  test("that nobody holds any more go when the next one is made; others stay", async (t) => {
    const base = scratch(t);
    const [first, second] = [await makeOwnedFolder(base), await makeOwnedFolder(base)];
    writeFileSync(join(first.path, "root"), "large");
    const left = join(base, "jmp-agent-qemu-killed");
    mkdirSync(left);
    writeFileSync(join(left, ".lock"), "");
    writeFileSync(join(left, "root"), "large");
    mkdirSync(join(base, "jmp-agent-qemu-being-made"));
    mkdirSync(join(base, "of-somebody-else"));
    writeFileSync(join(base, "of-somebody-else/.lock"), "");
    symlinkSync(second.path, join(base, "jmp-agent-qemu-link"));
    const third = await makeOwnedFolder(base);
    const expected = [first.path, second.path, third.path].map((path) => basename(path));
    expected.push("jmp-agent-qemu-being-made", "jmp-agent-qemu-link", "of-somebody-else");
    assert.deepEqual(readdirSync(base).sort(), expected.sort());
    assert.equal(readFileSync(join(first.path, "root"), "utf8"), "large");
    await Promise.all([first, second, third].map((folder) => folder.remove()));
    assert.equal(readdirSync(base).length, 3);
  });
});

describe("the children of a machine", { skip: noQemu() }, () => {
  test("are those of the Python driver, and ports of the guest by their names", async (t) => {
    const hostfwd = {
      ssh: { hostport: 2222, guestport: 22 },
      web: { hostaddr: "0.0.0.0", hostport: 8080, guestport: 80 },
    };
    const machine = await startQemu(t, { hostfwd, legacy_flasher_client: true });
    const found = machine.exporter.tree.root.children.get("qemu")?.children;
    const types = [...(found ?? [])].map(([name, { planned }]) => `${name} ${planned.type}`);
    const network = "jumpstarter_driver_network.driver.TcpNetwork";
    assert.deepEqual(types, [
      "power jumpstarter_driver_qemu.driver.QemuPower",
      "flasher jumpstarter_driver_qemu.driver.QemuFlasher",
      "console jumpstarter_agent.QemuConsole",
      "vnc jumpstarter_agent.QemuVnc",
      `ssh ${network}`,
      `web ${network}`,
    ]);
    assert.deepEqual(found?.get("ssh")?.planned.config, { host: "127.0.0.1", port: 2222, enable_address: true });
    const label = (name: string) => machine.client.find(name)?.labels["jumpstarter.dev/client"];
    assert.equal(label("qemu"), "jumpstarter_driver_qemu.client.QemuClient");
    assert.equal(label("qemu.flasher"), "jumpstarter_driver_opendal.client.FlasherClient");
    assert.equal(label("qemu.console"), "jumpstarter_driver_pyserial.client.PySerialClient");
  });
});

describe("root images", { skip: noQemu() }, () => {
  test("raw, qcow2 and vmdk are told apart, others are refused", async (t) => {
    const folder = scratch(t);
    for (const [format, found] of [
      ["raw", "raw"],
      ["qcow2", "qcow2"],
      ["vmdk", "vmdk"],
      ["qcow", "qcow"],
    ] as const) {
      const path = join(folder, format);
      qemuImg("create", "-q", "-f", format, path, "8M");
      const { format: told, virtualBytes } = await inspectImage(path, { own: false }, signal);
      assert.deepEqual([told, virtualBytes], [found, 8 * 2 ** 20]);
    }
    const path = join(folder, "vdi");
    qemuImg("create", "-q", "-f", "vdi", path, "8M");
    const refused = { code: "E_INVALID", message: "unsupported image format: vdi" };
    await assert.rejects(inspectImage(path, { own: false }, signal), refused);
  });

  test("an image that a client has flashed may not name files of the host", async (t) => {
    const folder = scratch(t);
    const [secret, layered, split, flat] = ["secret", "layered", "split", "flat.vmdk"].map((name) =>
      join(folder, name),
    ) as [string, string, string, string];
    writeFileSync(secret, randomBytes(2 ** 20));
    qemuImg("create", "-q", "-f", "qcow2", "-F", "raw", "-b", secret, layered);
    qemuImg("create", "-q", "-f", "qcow2", "-o", `data_file=${folder}/data,data_file_raw=on`, split, "1M");
    qemuImg("create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", flat, "1M");
    for (const path of [layered, split, flat]) {
      await assert.rejects(inspectImage(path, { own: false }, signal), {
        code: "E_INVALID",
        message: /refers to another file/,
      });
      await inspectImage(path, { own: true }, signal);
    }
  });

  test("disks grow, and do not shrink", async (t) => {
    const path = join(scratch(t), "root");
    qemuImg("create", "-q", "-f", "qcow2", path, "8M");
    const grow = async (bytes: number) => growImage(await inspectImage(path, { own: true }, signal), bytes, signal);
    await grow(12 * 2 ** 20);
    assert.equal((await inspectImage(path, { own: true }, signal)).virtualBytes, 12 * 2 ** 20);
    await grow(12 * 2 ** 20);
    const shrinking = "Shrinking disk is not supported: current 12.0MiB, requested 1.0MiB";
    await assert.rejects(grow(2 ** 20), { code: "E_FAILED", message: shrinking });
    await assert.rejects(grow(2 ** 51), {
      code: "E_FAILED",
      message: /^Not enough disk space: need 2\.0PiB, only .*iB available$/,
    });
    const whole = { path, format: "raw", virtualBytes: 1, allocatedBytes: 0 } as const;
    await assert.rejects(
      growImage({ ...whole, path: `${path}.missing` }, 2 ** 20, signal),
      /Failed to resize disk: .*No such file/,
    );
  });

  test("blocks that an image has already need no room", async (t) => {
    const path = join(scratch(t), "root");
    writeFileSync(path, randomBytes(2 ** 20));
    const { allocatedBytes, format } = await inspectImage(path, { own: true }, signal);
    assert.ok(allocatedBytes >= 2 ** 20);
    assert.equal(format, "raw");
    // More than any disk has; all of it is there already, or nothing.
    const bytes = 2 ** 51;
    const huge = { path, format: "raw", virtualBytes: bytes, allocatedBytes: bytes } as const;
    await growImage(huge, bytes, signal);
    await assert.rejects(
      growImage({ ...huge, allocatedBytes: 0 }, bytes, signal),
      /^AgentError: Not enough disk space/,
    );
  });

  test("a default partition that is missing is told", async (t) => {
    const work = new WorkFolder(scratch(t), { root: "/nowhere/root.img" });
    t.after(() => work.remove());
    await assert.rejects(work.find("root"), /ENOENT.*\/nowhere\/root\.img/);
    assert.equal(await work.find("bios"), undefined);
  });
});

describe("fls", { skip: noQemu() }, () => {
  const url = "oci://registry.test/a:1";

  /** A server with a program that writes what it is told. */
  async function serve(t: TestContext, status = 200, script = 'echo "$2 $FLS_REGISTRY_USERNAME" > "$3"') {
    const server = createServer((_request, response) => {
      response.writeHead(status).end(`#!/bin/sh\n${script}\n`);
    }).listen(0, "127.0.0.1");
    await once(server, "listening");
    t.after(() => server.close());
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}/fls?token=hidden`;
  }

  test("another program is downloaded only where that is allowed, and once for a lease", async (t) => {
    const custom = { fls_custom_binary_url: await serve(t) };
    const strict = await startQemu(t, custom);
    await assert.rejects(strict.flasher.flash(url), /needs fls_allow_custom_binaries/);
    const machine = await startQemu(t, { ...custom, fls_allow_custom_binaries: true });
    await machine.flasher.flash(url, "bios");
    await machine.flasher.flash(url, "bios");
    assert.match((await machine.dump("bios")).toString(), /^oci:\/\/registry\.test\/a:1 \n$/);
    assert.equal(machine.said.filter((text) => text.includes("downloading fls")).length, 1);
    assert.doesNotMatch(machine.said.join("\n"), /hidden/);
  });

  test("a caller who gives up ends it, and half an image is not in place", async (t) => {
    const custom = await serve(t, 200, 'echo half > "$3"; echo $$; exec sleep 60');
    const machine = await startQemu(t, { fls_custom_binary_url: custom, fls_allow_custom_binaries: true });
    let pid = 0;
    for await (const [stdout] of machine.flasher.flash_oci(url)) {
      pid = Number(stdout);
      break;
    }
    await until(() => !existsSync(`/proc/${pid}`));
    await until(() => filesOf(machine.folder).join() === "fls");
  });

  test("a download that fails is told without its address", async (t) => {
    const machine = await startQemu(t, { fls_custom_binary_url: await serve(t, 404), fls_allow_custom_binaries: true });
    await assert.rejects(machine.flasher.flash(url), { message: "fls cannot be downloaded: its server answers 404" });
    assert.deepEqual(filesOf(machine.folder), []);
  });

  test("without fls it says how to get it", { skip: onThisHost("fls") }, async (t) => {
    const machine = await startQemu(t);
    await assert.rejects(machine.flasher.flash(url), {
      code: "E_FAILED",
      message: /^fls command not found.*fls_version/,
    });
  });
});

function onThisHost(program: string): boolean {
  return (process.env["PATH"] ?? "")
    .split(":")
    .some((folder) => statSync(join(folder, program), { throwIfNoEntry: false }));
}
