/**
 * Signatures that cosign 2.4.3 made (`cosign sign --key … --tlog-upload=false`) of one image, with keys of the three kinds:
 * what it signed, the public keys, and its annotations.
 */
export const cosignPayload =
  '{"critical":{"identity":{"docker-reference":"127.0.0.1:37311/lab/board"},"image":{"docker-manifest-digest":"sha256:ddd3aafd3ee35ec7834064eac61275bc8bc8d35a557bf635506ddf444ce8196e"},"type":"cosign container image signature"},"optional":null}';

export const cosignSignatures = {
  "P-256": {
    pem: "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEOrV/BNaPHW5XP6Tp7PZcQQTUdysS\nroYnDAuBSpkq6k9r2Dkuylw8JL5bkIho6VtP5k5SCvbhfBBAJSVIpUrvsw==\n-----END PUBLIC KEY-----\n",
    signature: "MEUCIQCm0o37wEpWiVsirr/iOhJMEZMYSoVu3h4B5maCUKqxgAIgIyazsbpCxguyqqCkUvpS9wOVXSxc6t/Cjeg1/7e1DNQ=",
  },
  "P-384": {
    pem: "-----BEGIN PUBLIC KEY-----\nMHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEzjnVYjyIaD2ohMW0zXyU8zaT5grk9zLg\nL9bFtkJCwrD2/TJWACOO8AoOPEFEPfZ6fcKXJ8UbV7Pfg/nbhtAXy72KopR+rKdX\n+KsGrSiq+LBpYELRDdtqBxOooeSctWGk\n-----END PUBLIC KEY-----\n",
    signature:
      "MGYCMQCEy50XGMHr6vuUJCVAF9n8lb+cVtJlv+fvV3w9gqkd3JT9l2yiuFel/GMGxLmrNYQCMQDLycuqgdO1Ray0NSRWyHVCZs1f96tw98X3/YIqgGpqyTT20E8ZXkAK+hCy8UZf3h8=",
  },
  ed25519: {
    pem: "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAVBkL+/PSU9Cjko0F2lrpbej1zXMH3UNl8CzsoOvjlhA=\n-----END PUBLIC KEY-----\n",
    signature: "Vfr4UpHnLvYOUKMJHNZkwnxwylHALpFSC7vfdvNxHHvtCrDwGx7SNxJ34d73SFiabAWhWDYZyu75ItPPS9JPDA==",
  },
} as const;
