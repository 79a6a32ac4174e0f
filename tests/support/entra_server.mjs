// Entra ID's token endpoint for one tenant: the npm package oauth2-mock-server behind TLS, with Entra's paths, its
// refusals, and a check of what proves the client. What it knows stands in a JSON file that tests rewrite while it runs:
//
//   {"lifetime": seconds, "outage": status or null, "clients": {id: {"secret"|"assertion"|"certificate": text}}}
//
// Started by entra.py: node entra_server.mjs NODE_MODULES KEY.pem CERT.pem KNOWN.json REQUESTS.jsonl
import { appendFileSync, readFileSync } from 'node:fs';
import { X509Certificate, constants, createHash, randomUUID, verify } from 'node:crypto';
import { pathToFileURL } from 'node:url';

const [modules, key, certificate, known, requests] = process.argv.slice(2);
const { OAuth2Server } = await import(pathToFileURL(`${modules}/oauth2-mock-server/dist/index.mjs`));

const tenant = 'tenant-1';
const server = new OAuth2Server(key, certificate, {
  endpoints: {
    wellKnownDocument: `/${tenant}/v2.0/.well-known/openid-configuration`,
    token: `/${tenant}/oauth2/v2.0/token`,
  },
});
await server.issuer.keys.generate('RS256');

const state = () => JSON.parse(readFileSync(known, 'utf8'));

const bytes = (part) => Buffer.from(part, 'base64url');
const decoded = (part) => JSON.parse(bytes(part).toString());

function signedBy(pem, assertion) {
  const [head, body, signature] = assertion.split('.');
  const { alg, x5t, 'x5t#S256': x5t256 } = decoded(head);
  const cert = new X509Certificate(pem);
  const shows = (given, hash) => given?.replace(/=+$/, '') === createHash(hash).update(cert.raw).digest('base64url');
  const padding = alg.startsWith('PS') ? constants.RSA_PKCS1_PSS_PADDING : constants.RSA_PKCS1_PADDING;
  const saltLength = alg.startsWith('PS') ? constants.RSA_PSS_SALTLEN_DIGEST : undefined;
  return (
    (shows(x5t256, 'sha256') || shows(x5t, 'sha1')) &&
    decoded(body).exp > Date.now() / 1000 &&
    verify('sha256', Buffer.from(`${head}.${body}`), { key: cert.publicKey, padding, saltLength }, bytes(signature))
  );
}

function proves(client, { client_secret: secret, client_assertion: assertion }) {
  if (client?.secret) return secret === client.secret;
  if (client?.assertion) return assertion === client.assertion;
  if (client?.certificate) return Boolean(assertion) && signedBy(client.certificate, assertion);
  return false;
}

server.service.on('beforeTokenSigning', (token, req) => {
  const now = Math.floor(Date.now() / 1000);
  const { scope: aud, client_id: appid } = req.body;
  Object.assign(token.payload, { aud, appid, exp: now + state().lifetime, jti: randomUUID() });
});

server.service.on('beforeResponse', (answer, req) => {
  const { lifetime, outage, clients } = state();
  const { client_id: id, scope, grant_type: grant } = req.body;
  if (outage) {
    Object.assign(answer, { statusCode: outage, body: { error: 'temporarily_unavailable' } });
  } else if (grant !== 'client_credentials' || !proves(clients[id], req.body)) {
    const text = 'AADSTS7000222: The provided client secret keys are expired or revoked.';
    Object.assign(answer, { statusCode: 401, body: { error: 'invalid_client', error_description: text } });
  } else {
    answer.body = { token_type: 'Bearer', expires_in: lifetime, access_token: answer.body.access_token };
  }
  const line = { client: id, scope, status: answer.statusCode, token: answer.body.access_token };
  appendFileSync(requests, `${JSON.stringify(line)}\n`);
});

await server.start(0, '127.0.0.1');
server.issuer.url = `https://127.0.0.1:${server.address().port}`; // at the root: paths are put behind it
console.log(server.address().port);
process.stdin.on('end', () => server.stop().then(() => process.exit())).resume();
