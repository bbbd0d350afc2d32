// The official TypeScript client, of the package and over the transport that are asked for:
//   node client.mjs v1|v2 legacy|modern http|sse URL [TOKEN]
//   node client.mjs v1|v2 legacy|modern stdio COMMAND [ARGUMENT ...]
// It lists and calls the tools, and prints what came back as one line of JSON.

const [release, era, transport, target, ...rest] = process.argv.slice(2);

async function packages() {
  if (release === 'v2') {
    const client = await import('@modelcontextprotocol/client');
    const stdio = await import('@modelcontextprotocol/client/stdio');
    return { ...client, ...stdio };
  }
  const client = await import('@modelcontextprotocol/sdk/client/index.js');
  const http = await import('@modelcontextprotocol/sdk/client/streamableHttp.js');
  const sse = await import('@modelcontextprotocol/sdk/client/sse.js');
  const stdio = await import('@modelcontextprotocol/sdk/client/stdio.js');
  return { ...client, ...http, ...sse, ...stdio };
}

const sdk = await packages();
const options = era === 'modern' ? { versionNegotiation: { mode: { pin: '2026-07-28' } } } : {};
const client = new sdk.Client({ name: `typescript-${release}`, version: '1.0.0' }, options);
const headers = rest[0] ? { Authorization: `Bearer ${rest[0]}` } : {};
const ways = {
  http: () => new sdk.StreamableHTTPClientTransport(new URL(target), { requestInit: { headers } }),
  sse: () => new sdk.SSEClientTransport(new URL(target), { requestInit: { headers } }),
  stdio: () => new sdk.StdioClientTransport({ command: target, args: rest, stderr: 'inherit', env: process.env }),
};
const way = ways[transport]();

await client.connect(way);
const { tools } = await client.listTools();
const row = await client.callTool({ name: 'lookup_customer', arguments: { customer_id: 4 } });
const mistake = await client.callTool({ name: 'lookup', arguments: { entity: 'nothing', key: 1 } });
const { resources } = await client.listResources();
const text = await client.readResource({ uri: resources[0].uri });
const { prompts } = await client.listPrompts();
const prompt = await client.getPrompt({ name: 'explain_freshness', arguments: { entity: 'customer' } });
const { completion } = await client.complete({
  ref: { type: 'ref/prompt', name: 'explain_freshness' },
  argument: { name: 'entity', value: 'cu' },
});
const unknown = await client.callTool({ name: 'no_such_tool', arguments: {} }).then(
  () => null,
  (error) => error.code,
);
const server = client.getServerVersion()?.name;
await client.close();

console.log(
  JSON.stringify({
    tools: tools.map((tool) => tool.name),
    rows: row.structuredContent.rows,
    freshness: row._meta['headgate/freshness'],
    mistake: { isError: mistake.isError, text: mistake.content[0].text },
    text: text.contents[0].text,
    prompts: prompts.map((each) => each.name),
    prompt: prompt.messages[0].content.text,
    completed: completion.values,
    unknown,
    server,
  }),
);
