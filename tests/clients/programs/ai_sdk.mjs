// The AI SDK with its provider for OpenAI-compatible servers.

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import * as ai from "ai";
import { z } from "zod";
import { assert, CALLS, given, PLACE, PNG, REPLY, report, TEXT } from "./report.mjs";

ai.generateText ?? assert.fail("ai has no generateText");
globalThis.AI_SDK_LOG_WARNINGS = false;
const make = (apiKey, options = {}) =>
  createOpenAICompatible({ name: "trustgate", baseURL: given.url, apiKey, ...options });
const server = make(given.key, { includeUsage: true, supportsStructuredOutputs: true });
const Place = z.object({ city: z.string(), days: z.number().int() });
const tools = Object.fromEntries(
  ["weather", "population"].map((name) => [name, ai.tool({ description: name, inputSchema: Place })]),
);
const called = (calls) => calls.map((call) => [call.toolName, call.input]);
const statusOf = (error) => error.statusCode ?? error.lastError?.statusCode ?? error.cause?.statusCode;

async function partsOf(result) {
  const parts = [];
  for await (const part of result.fullStream ?? result.stream) parts.push(part);
  return parts;
}

await report({
  async chat() {
    const answer = await ai.generateText({ model: server("gpt-4o-mini"), prompt: "Hello" });
    assert.equal(answer.text, REPLY);
    assert.ok(answer.usage.totalTokens > 0);
  },
  async stream() {
    const result = ai.streamText({ model: server("gpt-4o"), prompt: "Hello" });
    assert.equal(await result.text, TEXT);
  },
  async usage() {
    const result = ai.streamText({ model: server("gpt-4o"), prompt: "Hello" });
    await result.text;
    assert.ok((await result.usage).totalTokens > 0);
  },
  async tools() {
    const answer = await ai.generateText({ model: server("scripted"), prompt: "Hello", tools });
    assert.deepEqual(called(answer.toolCalls), CALLS);
  },
  async tools_stream() {
    const result = ai.streamText({ model: server("scripted"), prompt: "Hello", tools });
    assert.deepEqual(called(await result.toolCalls), CALLS);
  },
  async schema() {
    const output = ai.Output.object({ schema: Place });
    const answer = await ai.generateText({ model: server("scripted"), prompt: "Hello", output });
    assert.deepEqual(answer.output, PLACE);
    const result = ai.streamText({ model: server("scripted"), prompt: "Hello", output });
    assert.deepEqual(await result.output, PLACE);
  },
  async parts() {
    const image = { type: "file", data: Buffer.from(PNG, "base64"), mediaType: "image/png" };
    const content = [{ type: "text", text: "What is it?" }, image];
    const answer = await ai.generateText({ model: server("scripted"), messages: [{ role: "user", content }] });
    assert.equal(answer.text, TEXT);
  },
  async completions() {
    const model = server.completionModel("gpt-3.5-turbo-instruct");
    assert.equal((await ai.generateText({ model, prompt: "Hello" })).text, REPLY);
  },
  async embeddings() {
    const model = server.embeddingModel("text-embedding-3-small");
    assert.deepEqual((await ai.embed({ model, value: "one" })).embedding, [0.25, -0.5, 0.125]);
  },
  async images() {
    const generate = ai.generateImage ?? ai.experimental_generateImage;
    const { image } = await generate({ model: server.imageModel("scripted"), prompt: "A cat" });
    assert.equal(image.base64, PNG);
  },
  async wrong_key() {
    const asked = ai.generateText({ model: make(given.wrong_key)("gpt-4o-mini"), prompt: "Hello" });
    await assert.rejects(asked, (error) => statusOf(error) === 401);
  },
  async quota() {
    const model = make(given.spent_key)("scripted");
    const asked = ai.generateText({ model, prompt: "Hello", maxRetries: 0 });
    await assert.rejects(asked, (error) => statusOf(error) === 429);
  },
  async broken_stream() {
    const parts = await partsOf(ai.streamText({ model: server("breaks-off"), prompt: "Hello", onError() {} }));
    assert.ok(parts.some((part) => part.type === "error"), JSON.stringify(parts));
  },
  async hang_up() {
    const leaving = new AbortController();
    const result = ai.streamText({ model: server("endless"), prompt: "Hello", abortSignal: leaving.signal });
    for await (const piece of result.textStream) {
      assert.equal(piece, "Hel");
      leaving.abort();
      break;
    }
  },
});
