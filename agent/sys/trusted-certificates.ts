import { readFileSync } from "node:fs";
import { rootCertificates } from "node:tls";

/**
 * The certificate authorities that the machine's administrator trusts, private ones too, as PEM: from where Debian keeps them,
 * or OpenSSL's variable says. Undefined if there are none.
 */
export function systemRoots(): Buffer | undefined {
  try {
    return readFileSync(process.env["SSL_CERT_FILE"] ?? "/etc/ssl/certs/ca-certificates.crt");
  } catch {
    return undefined;
  }
}

/**
 * Certificate authorities for TLS to devices, as PEM: the host's own and Node's, and those of a further file.
 * @throws the system's error if that file cannot be read
 */
export function trustedCertificates(file: string | null | undefined): (string | Buffer)[] {
  const further = file ? [readFileSync(file)] : [];
  const system = systemRoots();
  return [...rootCertificates, ...(system === undefined ? [] : [system]), ...further];
}
