// OpenAI's TypeScript client against TrustGate: an answer, its receipt, a stream, a refusal.
//
// npm ci, then: OPENAI_BASE_URL=http://127.0.0.1:4010/v1 OPENAI_API_KEY=tgk_… npx tsx chat.ts
// (Node from 22.18 on, Deno and Bun run it as it is.) All types are inferred, so it is JavaScript as well.

import OpenAI from "openai";

const model = process.env.MODEL ?? "trustgate/echo";
const client = new OpenAI(); // the address and the key are in the environment

// An answer. withResponse() has the headers, and with them the receipt's id.
const { data: answer, response } = await client.chat.completions
  .create({ model, messages: [{ role: "user", content: "Hello from TypeScript!" }] })
  .withResponse();
console.log("answer: ", answer.choices[0]?.message.content);
console.log("tokens: ", answer.usage?.total_tokens);
console.log("receipt:", response.headers.get("x-trustgate-receipt"));

// A stream: each part as it comes, the usage at the end.
process.stdout.write("stream:  ");
const stream = await client.chat.completions.create({
  model,
  messages: [{ role: "user", content: "Hello, word by word!" }],
  stream: true,
  stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  process.stdout.write(chunk.choices[0]?.delta.content ?? "");
  if (chunk.usage) console.log(` (${chunk.usage.total_tokens} tokens)`);
}

// A refusal: OpenAI's own exceptions, with a code that says why.
try {
  await new OpenAI({ apiKey: "tgk_wrong" }).models.list();
} catch (error) {
  if (!(error instanceof OpenAI.AuthenticationError)) throw error;
  console.log("refused:", error.status, error.code);
}
