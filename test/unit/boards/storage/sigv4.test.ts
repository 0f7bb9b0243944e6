import assert from "node:assert/strict";
import { test } from "node:test";
import { presignQuery, sha256, signHeaders, uriEncode } from "../../../../boards/storage/store/sigv4.ts";

// The examples of "Signature Calculations for the Authorization Header" and "Authenticating Requests: Using
// Query Parameters" in the Amazon S3 API reference.
const signer = {
  region: "us-east-1",
  credentials: {
    accessKeyId: "AKIAIOSFODNN7EXAMPLE",
    secretAccessKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
  },
};
const now = new Date("2013-05-24T00:00:00Z");
const host = "examplebucket.s3.amazonaws.com";

const examples = [
  {
    what: "a GET with a range",
    request: { method: "GET", path: "/test.txt", headers: { range: "bytes=0-9" } },
    payload: "",
    signature: "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
  },
  {
    what: "a PUT with a body and a key that needs encoding",
    request: {
      method: "PUT",
      path: `/${uriEncode("test$file.text")}`,
      headers: { date: "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY" },
    },
    payload: "Welcome to Amazon S3.",
    signature: "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
  },
  {
    what: "a query parameter without a value",
    request: { method: "GET", path: "/", query: { lifecycle: "" } },
    payload: "",
    signature: "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
  },
  {
    what: "a list with query parameters",
    request: { method: "GET", path: "/", query: { prefix: "J", "max-keys": "2" } },
    payload: "",
    signature: "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
  },
];

for (const { what, request, payload, signature } of examples) {
  test(`the published signature of ${what}`, () => {
    const headers = signHeaders({ host, ...request }, sha256(payload), signer, now);
    assert.equal(headers["authorization"]?.split("Signature=")[1], signature);
  });
}

test("the published signature of a presigned URL", () => {
  const query = presignQuery({ method: "GET", host, path: "/test.txt" }, 86400, signer, now);
  assert.equal(
    query,
    "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request" +
      "&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host" +
      "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404",
  );
});

test("a session token is sent and signed", () => {
  const withToken = { ...signer, credentials: { ...signer.credentials, sessionToken: "token" } };
  const headers = signHeaders({ host, method: "GET", path: "/x" }, sha256(""), withToken, now);
  assert.equal(headers["x-amz-security-token"], "token");
  assert.match(
    headers["authorization"] ?? "",
    /SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-security-token/,
  );
});
