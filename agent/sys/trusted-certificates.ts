import { readFileSync } from "node:fs";
import { rootCertificates } from "node:tls";

/** Where Debian keeps what its administrator trusts, private authorities too; the variable is OpenSSL's. */
const systemFile = () => process.env["SSL_CERT_FILE"] ?? "/etc/ssl/certs/ca-certificates.crt";

/**
 * Certificate authorities for TLS to devices, as PEM: the host's own and Node's, and those of a further file.
 * @throws the system's error if that file cannot be read
 */
export function trustedCertificates(file: string | null | undefined): string[] {
  const further = file ? [readFileSync(file, "utf8")] : [];
  try {
    return [...rootCertificates, readFileSync(systemFile(), "utf8"), ...further];
  } catch {
    return [...rootCertificates, ...further];
  }
}
