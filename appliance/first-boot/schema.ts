import { isIP } from "node:net";
import * as z from "zod";
import { checkExporterConfig } from "../../agent/config/schema.ts";
import type { ConfigProblem } from "../../agent/driver/entry.ts";
import { problemsOf } from "../../agent/driver/problems.ts";

/** What becomes a file's name: an exporter, a key. */
const fileName = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/, "must be letters, digits, dots, - and _");

const hostName = z
  .string()
  .regex(/^(?!-)[A-Za-z0-9-]{1,63}(?<!-)$/, "must be letters, digits and -, 63 at most, without a domain");

/** What stands in a line of a file of its own must not bring lines along. */
const line = (what: string) => z.string().regex(/^\P{Cc}+$/u, `must be ${what}, in one line`);

const address = line("an IP address").refine((text) => isIP(text) !== 0, "must be an IP address");

const addressWithPrefix = line("an address").refine((text) => {
  const [ip = "", bits = "", ...more] = text.split("/");
  const most = { 0: -1, 4: 32, 6: 128 }[isIP(ip)] ?? -1;
  return more.length === 0 && /^\d{1,3}$/.test(bits) && Number(bits) <= most;
}, "must be an address with the length of its network, such as 192.0.2.7/24");

const server = z.string().regex(/^[A-Za-z0-9.:-]+$/, "must be a host name or an address");

/** Without an address: DHCP. */
const wired = z.strictObject({
  interface: z
    .string()
    .regex(/^[A-Za-z0-9._*?-]{1,15}$/, "must be the name of a network interface, * and ? allowed")
    .optional(),
  address: addressWithPrefix.optional(),
  gateway: address.optional(),
  dns: z.array(address).default([]),
});

const wifi = z.strictObject({
  ssid: line("the name of a network").max(32, "must have 32 bytes at most"),
  password: line("a password")
    .min(8, "must have 8 characters at least")
    .max(63, "must have 63 characters at most")
    .optional(),
  country: z.string().regex(/^[A-Z]{2}$/, "must be a country as ISO 3166 has it, such as DE"),
  interface: z
    .string()
    .regex(/^[A-Za-z0-9._-]{1,15}$/, "must be the name of a network interface")
    .default("wlan0"),
});

/** `jumpstarter.yaml` of the appliance. */
const hostConfig = z.strictObject({
  hostname: hostName.optional(),
  timezone: z
    .string()
    .regex(/^[A-Za-z0-9+_-]+(\/[A-Za-z0-9+_-]+)*$/, "must be a time zone, such as Europe/Berlin")
    .default("UTC"),
  ntp: z.array(server).default([]),
  hosts: z.record(server, address).default({}),
  network: z.strictObject({ ethernet: wired.prefault({}), wifi: wifi.optional() }).prefault({}),
  ssh: z
    .strictObject({
      authorized_keys: z.array(
        z
          .string()
          .regex(
            /^(ssh|ecdsa|sk-ssh|sk-ecdsa)-[^\n]+ [A-Za-z0-9+/]+=*( [^\n]*)?$/,
            "must be a public key, as in id_ed25519.pub",
          ),
      ),
    })
    .optional(),
  console: z
    .strictObject({
      password_hash: z.string().regex(/^\$[a-z0-9]+\$[A-Za-z0-9./$=,]+$/, "must be a password as crypt(5) hides it"),
    })
    .optional(),
  exporters: z.record(fileName, z.record(z.string(), z.unknown())).default({}),
  tokens: z.record(fileName, line("a token")).default({}),
  update_keys: z
    .record(
      fileName,
      z
        .string()
        .regex(
          /^\s*-----BEGIN PUBLIC KEY-----[A-Za-z0-9+/=\s]+-----END PUBLIC KEY-----\s*$/,
          "must be a public key, as PEM",
        ),
    )
    .default({}),
});

export type HostConfig = z.output<typeof hostConfig>;

/** @returns the configuration, or all that is wrong with it */
export function checkHostConfig(value: unknown): { config: HostConfig } | { problems: ConfigProblem[] } {
  const parsed = hostConfig.safeParse(value ?? {});
  if (!parsed.success) return { problems: problemsOf(parsed.error, [], Object.keys(hostConfig.shape)) };
  const config = parsed.data;
  const problems = Object.entries(config.exporters).flatMap(([name, exporter]) =>
    // Drivers are the agent's affair: it goes on with the exporters whose drivers it knows.
    checkExporterConfig(exporter, { JMP_NAME: name }).problems.map((problem): ConfigProblem => ({
      ...problem,
      path: ["exporters", name, ...problem.path],
    })),
  );
  const { ethernet } = config.network;
  if (ethernet.gateway !== undefined && ethernet.address === undefined) {
    const message = "stands with an address only; DHCP brings its own gateway";
    problems.push({ path: ["network", "ethernet", "gateway"], message });
  }
  return problems.length > 0 ? { problems } : { config };
}

/** What a host is that was told nothing. */
export const defaults: HostConfig = hostConfig.parse({});
