import { execFile } from "node:child_process";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";

const execute = promisify(execFile);
const validDays = "7300";

export interface Authority {
  /** PEM. */
  readonly certificate: string;
  /** A server certificate for localhost and 127.0.0.1; each has a key of its own. With 0 days it has expired at once. */
  serverCertificate(names?: readonly string[], days?: number): Promise<ServerCertificate>;
}

export interface ServerCertificate {
  /** PEM. */
  readonly certificate: string;
  /** PEM. */
  readonly key: string;
}

/** A certificate authority made by the openssl program; its files lie in `directory`. */
export async function createAuthority(directory: string, commonName = "test authority"): Promise<Authority> {
  await mkdir(directory, { recursive: true });
  const [caKey, ca] = [join(directory, "ca.key"), join(directory, "ca.pem")];
  await openssl(
    ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"].concat(
      ["-keyout", caKey, "-out", ca, "-days", validDays, "-subj", `/CN=${commonName}`],
      ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"],
    ),
  );
  const certificate = await readFile(ca, "utf8");
  let made = 0;
  return {
    certificate,
    async serverCertificate(names = ["localhost", "127.0.0.1"], days = Number(validDays)) {
      const base = join(directory, `server-${++made}`);
      const [key, request, signed, extensions] = [".key", ".csr", ".pem", ".ext"].map((end) => base + end) as [
        string,
        string,
        string,
        string,
      ];
      const subjects = names.map((name) => (/^[\d.]+$|:/.test(name) ? `IP:${name}` : `DNS:${name}`));
      await writeFile(extensions, `subjectAltName=${subjects.join(",")}\nextendedKeyUsage=serverAuth\n`);
      await openssl(
        ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"].concat(
          ["-keyout", key, "-out", request],
          ["-subj", `/CN=${names[0] ?? "localhost"}`],
        ),
      );
      await openssl(
        ["x509", "-req", "-in", request, "-CA", ca, "-CAkey", caKey, "-CAcreateserial", "-out", signed].concat(
          ["-days", String(days)],
          ["-extfile", extensions],
        ),
      );
      return { certificate: await readFile(signed, "utf8"), key: await readFile(key, "utf8") };
    },
  };
}

async function openssl(args: readonly string[]): Promise<void> {
  await execute("openssl", args, { timeout: 60_000 });
}
