// A real authorization server (npm oidc-provider) behind a tunnel, as the published recipe has it: issuer, token and registration
// endpoints have the tunnel's name, the authorization endpoint the one that browsers reach.
// node authorization_server.mjs <path of oidc-provider> <port> <issuer>
const [, , library, port, issuer] = process.argv;
const { default: Provider } = await import(library);
const browsers = `http://127.0.0.1:${port}`;

const provider = new Provider(issuer, {
  clientDefaults: { grant_types: ["authorization_code", "refresh_token"], response_types: ["code"] },
  cookies: { keys: ["a key for tests"] },
  features: {
    devInteractions: { enabled: true },
    registration: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => undefined,
      useGrantedResource: () => true,
      getResourceServerInfo: (_, resource) => ({
        scope: "mcp",
        audience: resource,
        accessTokenFormat: "jwt",
        accessTokenTTL: 300,
        jwt: { sign: { alg: "RS256" } },
      }),
    },
  },
  pkce: { required: () => true },
  scopes: ["openid", "offline_access", "mcp"],
});
provider.proxy = true; // names itself by X-Forwarded-Host and -Proto, which the proxy sets
provider.use(async (context, next) => {
  await next();
  if (context.oidc?.route === "discovery") context.body.authorization_endpoint = `${browsers}/auth`;
});
provider.listen(Number(port), "127.0.0.1", () => console.log("listening"));
