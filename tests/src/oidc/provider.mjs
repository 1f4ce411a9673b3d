// A real OpenID provider (oidc-provider, certified by the OpenID Foundation) on loopback, whose users and claims the tests choose.
// Beside it, under /test/, what a CI system has: a service that mints ID tokens for jobs. Those are signed by the provider
// itself, with the keys that it publishes.
import { renameSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import Provider from 'oidc-provider';

// Client ids are audiences; of the first one tests may ask for any claims.
const minting = ['portcullis', 'another-client'].map((id) => ({
  client_id: id,
  client_secret: 'unused-secret-of-the-test-provider',
  redirect_uris: ['http://127.0.0.1/callback'],
}));
// For the approvals page, whose addresses stand behind the file's name on the command line.
const redirect_uris = process.argv.slice(3);
const pages = redirect_uris.length === 0 ? [] : [
  { client_id: 'portcullis-page', token_endpoint_auth_method: 'none', redirect_uris },
  { client_id: 'portcullis-page-confidential', client_secret: 'the-pages-own+secret/', redirect_uris },
];

// People are called as they log in: `ada+dba+oncall` is ada, in two groups.
function account(id) {
  const [preferred_username, ...groups] = id.split('+');
  return { accountId: id, claims: () => ({ sub: id, preferred_username, groups }) };
}

// For `portcullis login`: a native app, which may come back to any port of loopback (RFC 8252 section 7.3), or use a device code.
const native = {
  client_id: 'portcullis-cli', token_endpoint_auth_method: 'none', application_type: 'native',
  redirect_uris: ['http://127.0.0.1/callback'],
  grant_types: ['authorization_code', 'urn:ietf:params:oauth:grant-type:device_code'],
};

const server = createServer();
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const issuer = `http://127.0.0.1:${server.address().port}`;

const provider = new Provider(issuer, {
  clients: [...minting, ...pages, native],
  features: { deviceFlow: { enabled: true } },
  conformIdTokenClaims: false,
  claims: { openid: ['sub'], profile: ['preferred_username', 'groups'], email: ['email'] },
  acrValues: ['pwd', 'phr'],
  findAccount: (_ctx, id) => account(id),
});
const serve = provider.callback();

// One minted token: { "aud": client, "exp_in": seconds, "claims": { … } }.
async function mint({ aud = 'portcullis', exp_in = 300, claims = {} }) {
  const client = await provider.Client.find(aud);
  const token = new provider.IdToken({ sub: 'nobody' }, { client });
  token.scope = 'openid';
  for (const [name, value] of Object.entries(claims)) token.set(name, value);
  return token.issue({ use: 'idtoken', expiresAt: Math.floor(Date.now() / 1000) + exp_in });
}

async function body(request) {
  let text = '';
  for await (const chunk of request) text += chunk;
  return text;
}

// By which means people sign in is what they type as their password: `phr` (phishing-resistant), or a password.
async function interact(request, response) {
  const form = Object.fromEntries(new URLSearchParams(await body(request)));
  if (form.prompt === 'login') {
    const login = { accountId: form.login, acr: form.password === 'phr' ? 'phr' : 'pwd' };
    return provider.interactionFinished(request, response, { login }, { mergeWithLastSubmission: false });
  }
  request.body = form;
  return serve(request, response);
}

server.on('request', async (request, response) => {
  const url = new URL(request.url, issuer);
  if (request.method === 'POST' && url.pathname.startsWith('/interaction/')) return interact(request, response);
  if (!url.pathname.startsWith('/test/')) return serve(request, response);
  try {
    if (request.method === 'POST' && url.pathname === '/test/mint') {
      return response.end(await mint(JSON.parse(await body(request))));
    }
    // As GitHub's token service answers a job (ACTIONS_ID_TOKEN_REQUEST_URL).
    if (url.pathname === '/test/actions' && request.headers.authorization === 'Bearer the-jobs-own-request-token') {
      const claims = {
        sub: 'repo:acme/orders:ref:refs/heads/main', repository: 'acme/orders', repository_owner: 'acme',
        ref: 'refs/heads/main', actor: 'octocat', run_id: '9191', runner_environment: 'self-hosted',
      };
      const value = await mint({ aud: url.searchParams.get('audience'), exp_in: 60, claims });
      response.setHeader('content-type', 'application/json');
      return response.end(JSON.stringify({ value, count: 1 }));
    }
    response.statusCode = 404;
  } catch (error) {
    response.statusCode = 500;
    response.write(String(error));
  }
  response.end();
});

// Where it is to be found, written whole.
writeFileSync(`${process.argv[2]}.draft`, issuer);
renameSync(`${process.argv[2]}.draft`, process.argv[2]);
