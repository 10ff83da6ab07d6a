// A real OpenID provider (oidc-provider) for the tests, and the ways in which it can be made to
// misbehave. Told on its command line: where the registry's callback is. Says on its first line
// where it listens. `POST /control` changes accounts, keys and behaviour.
import { createServer } from "node:http";
import { once } from "node:events";
import * as jose from "jose";
import Provider from "oidc-provider";

const callback = process.argv[2];
const DEVICE = "urn:ietf:params:oauth:grant-type:device_code";
const behaviour = { accounts: {}, misbehave: null, latest: {} };
let keys = [];
let retired = null;
let handle = null;

async function freshKey(kid) {
  const { privateKey } = await jose.generateKeyPair("RS256", { extractable: true });
  return { ...(await jose.exportJWK(privateKey)), kid, use: "sig", alg: "RS256" };
}

function client(id, more) {
  return {
    client_id: id,
    redirect_uris: [callback],
    response_types: ["code"],
    grant_types: ["authorization_code", DEVICE],
    ...more,
  };
}

// What a broken or hostile provider would answer in place of its good ID token.
async function forged(kind, token) {
  const claims = jose.decodeJwt(token);
  const header = { alg: "RS256", kid: keys[0].kid };
  const now = Math.floor(Date.now() / 1000);
  const change = {
    nonce: { nonce: "another" },
    "no nonce": { nonce: undefined },
    aud: { aud: "other" },
    "aud list": { aud: ["other", "second"] },
    "aud without azp": { aud: ["touchstone", "other"] },
    azp: { azp: "other" },
    iss: { iss: "http://127.0.0.1:1" },
    exp: { iat: now - 300, exp: now - 120 },
    "exp just over": { iat: now - 300, exp: now - 20 },
    iat: { iat: now + 600, exp: now + 1200 },
    "old iat": { iat: now - 86400 },
    nbf: { nbf: now + 600 },
    at_hash: { at_hash: "AAAAAAAAAAAAAAAAAAAAAA" },
    sub: { sub: "" },
    "sub list": { sub: ["eva"] },
    "crlf sub": { sub: "eva\r\nadmin" },
  }[kind];
  if (change) {
    return new jose.SignJWT({ ...claims, ...change })
      .setProtectedHeader(header)
      .sign(await jose.importJWK(keys[0]));
  }
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  if (kind === "alg none") return `${part({ alg: "none", kid: keys[0].kid })}.${part(claims)}.`;
  if (kind === "no signature") return `${part(header)}.${part(claims)}.`;
  const { n, e, kty } = keys[0];
  if (kind === "hs256 public key") {
    const spki = await jose.exportSPKI(await jose.importJWK({ n, e, kty, alg: "RS256" }));
    return new jose.SignJWT(claims)
      .setProtectedHeader({ alg: "HS256", kid: keys[0].kid })
      .sign(Buffer.from(spki));
  }
  if (kind === "hs256 secret") {
    return new jose.SignJWT(claims)
      .setProtectedHeader({ alg: "HS256" })
      .sign(Buffer.from("a secret of the registry, long enough"));
  }
  if (kind === "old key") {
    return new jose.SignJWT(claims)
      .setProtectedHeader({ alg: "RS256", kid: retired.kid })
      .sign(await jose.importJWK(retired));
  }
  const stranger = await freshKey(kind === "stranger under our kid" ? keys[0].kid : "stranger");
  const theirs = { alg: "RS256", kid: stranger.kid };
  if (kind === "stranger in the header") theirs.jwk = { n: stranger.n, e: stranger.e, kty: "RSA" };
  return new jose.SignJWT(claims)
    .setProtectedHeader(theirs)
    .sign(await jose.importJWK(stranger));
}

async function build(issuer) {
  const secret = "a secret of the registry, long enough";
  const provider = new Provider(issuer, {
    clients: [
      client("touchstone", { client_secret: secret }),
      client("public", { token_endpoint_auth_method: "none" }),
      client("other", { client_secret: secret }),
    ],
    jwks: { keys },
    claims: {
      openid: ["sub"],
      profile: ["name"],
      email: ["email", "email_verified"],
      eduperson_entitlement: ["eduperson_entitlement"],
    },
    features: {
      deviceFlow: { enabled: true },
      devInteractions: { enabled: true },
      rpInitiatedLogout: { enabled: false },
    },
    pkce: { required: () => true },
    cookies: { keys: ["for tests"] },
    findAccount: (_, id) => ({
      accountId: id,
      claims: () => ({ sub: id, ...behaviour.accounts[id] }),
    }),
  });
  provider.use(async (ctx, next) => {
    await next();
    if (ctx.path === "/token" && ctx.body?.id_token) {
      behaviour.latest = { ...ctx.body };
      const kind = behaviour.misbehave;
      if (kind === "swapped") ctx.body.id_token = behaviour.swapped;
      else if (kind && kind !== "userinfo of another") ctx.body.id_token = await forged(kind, ctx.body.id_token);
    }
    if (ctx.path === "/device/auth" && ctx.body?.device_code) {
      ctx.body = { ...ctx.body, interval: 1 }; // the tests need not wait for five seconds
    }
    if (ctx.path === "/me" && behaviour.misbehave === "userinfo of another") {
      ctx.body = { ...ctx.body, sub: "somebody-else" };
    }
  });
  handle = provider.callback();
}

async function control(request, response, issuer) {
  let text = "";
  for await (const chunk of request) text += chunk;
  const asked = JSON.parse(text);
  if (asked.accounts) behaviour.accounts = { ...behaviour.accounts, ...asked.accounts };
  if ("misbehave" in asked) behaviour.misbehave = asked.misbehave;
  if ("swapped" in asked) behaviour.swapped = asked.swapped;
  if (asked.rotate) {
    retired = keys[0];
    keys = [await freshKey(asked.rotate)];
    await build(issuer);
  }
  response.end(JSON.stringify({ latest: behaviour.latest }));
}

const server = createServer();
server.listen(0, "127.0.0.1");
await once(server, "listening");
const issuer = `http://127.0.0.1:${server.address().port}`;
keys = [await freshKey("first")];
await build(issuer);
server.on("request", (request, response) => {
  if (request.url === "/control") control(request, response, issuer);
  else handle(request, response);
});
process.stdin.on("end", () => process.exit(0)).resume(); // whoever started it is gone
console.log(JSON.stringify({ issuer }));
