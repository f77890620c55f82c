// openai for JavaScript.

import OpenAI, { toFile } from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { assert, CALLS, given, HELLO, PLACE, PNG, REPLY, report, SOUND_BYTES, TEXT } from "./report.mjs";

const client = new OpenAI({ baseURL: given.url, apiKey: given.key });
const Place = z.object({ city: z.string(), days: z.number().int() });
const parameters = {
  type: "object",
  properties: { city: { type: "string" }, days: { type: "integer" } },
  required: ["city", "days"],
  additionalProperties: false,
};
const tools = ["weather", "population"].map((name) => ({ type: "function", function: { name, parameters } }));
const called = (calls) => calls.map((call) => [call.function.name, JSON.parse(call.function.arguments)]);

async function collected(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

const text = (chunks) => chunks.flatMap((chunk) => chunk.choices.map((choice) => choice.delta.content ?? "")).join("");

await report({
  async models() {
    const names = (await collected(client.models.list())).map((model) => model.id);
    assert.ok(names.includes("scripted") && names.includes("gpt-4o-mini"), `${names}`);
    assert.equal((await client.models.retrieve("scripted")).id, "scripted");
  },
  async chat() {
    const { data, response } = await client.chat.completions
      .create({ model: "gpt-4o-mini", messages: HELLO })
      .withResponse();
    assert.equal(data.choices[0].message.content, REPLY);
    assert.match(response.headers.get("x-trustgate-receipt"), /^rcpt_/);
  },
  async stream() {
    const chunks = await client.chat.completions.create({ model: "gpt-4o", messages: HELLO, stream: true });
    assert.equal(text(await collected(chunks)), TEXT);
    const events = client.chat.completions.stream({ model: "scripted", messages: HELLO });
    assert.equal(await events.finalContent(), TEXT);
  },
  async usage() {
    const stream_options = { include_usage: true };
    const chunks = await collected(
      await client.chat.completions.create({ model: "gpt-4o", messages: HELLO, stream: true, stream_options }),
    );
    assert.ok(chunks.at(-1).usage.total_tokens > 0);
  },
  async tools() {
    const answer = await client.chat.completions.create({ model: "scripted", messages: HELLO, tools });
    assert.deepEqual(called(answer.choices[0].message.tool_calls), CALLS);
  },
  async tools_stream() {
    const events = client.chat.completions.stream({ model: "scripted", messages: HELLO, tools });
    assert.deepEqual(called((await events.finalChatCompletion()).choices[0].message.tool_calls), CALLS);
  },
  async schema() {
    const response_format = zodResponseFormat(Place, "place");
    const answer = await client.chat.completions.parse({ model: "scripted", messages: HELLO, response_format });
    assert.deepEqual(answer.choices[0].message.parsed, PLACE);
  },
  async parts() {
    const url = `data:image/png;base64,${PNG}`;
    const content = [{ type: "text", text: "What is it?" }, { type: "image_url", image_url: { url } }];
    const answer = await client.chat.completions.create({ model: "scripted", messages: [{ role: "user", content }] });
    assert.equal(answer.choices[0].message.content, TEXT);
  },
  async choices() {
    const answer = await client.chat.completions.create({ model: "scripted", messages: HELLO, n: 2, logprobs: true });
    assert.deepEqual(answer.choices.map((choice) => choice.logprobs.content[0].logprob), [-0.25, -0.25]);
  },
  async completions() {
    const asked = { model: "gpt-3.5-turbo-instruct", prompt: "Hello" };
    assert.equal((await client.completions.create(asked)).choices[0].text, REPLY);
    const chunks = await collected(await client.completions.create({ ...asked, stream: true }));
    assert.equal(chunks.flatMap((chunk) => chunk.choices.map((choice) => choice.text ?? "")).join(""), REPLY);
  },
  async embeddings() {
    const answer = await client.embeddings.create({ model: "text-embedding-3-small", input: "one" });
    assert.deepEqual(answer.data[0].embedding, [0.25, -0.5, 0.125]);
  },
  async responses() {
    assert.equal((await client.responses.create({ model: "gpt-4o-mini", input: "Hello" })).output_text, REPLY);
    const format = zodTextFormat(Place, "place");
    const parsed = await client.responses.parse({ model: "scripted", input: "Hello", text: { format } });
    assert.deepEqual(parsed.output_parsed, PLACE);
    assert.equal((await client.responses.retrieve(parsed.id)).output_text, TEXT);
    await client.responses.delete(parsed.id);
    await assert.rejects(client.responses.retrieve(parsed.id), OpenAI.NotFoundError);
  },
  async responses_stream() {
    const events = await collected(await client.responses.create({ model: "scripted", input: "Hello", stream: true }));
    const deltas = events.filter((event) => event.type === "response.output_text.delta");
    assert.equal(deltas.map((event) => event.delta).join(""), TEXT);
    const helper = client.responses.stream({ model: "scripted", input: "Hello" });
    assert.equal((await helper.finalResponse()).output_text, TEXT);
  },
  async moderations() {
    const answer = await client.moderations.create({ model: "scripted", input: ["one", "two"] });
    assert.deepEqual(answer.results.map((result) => result.flagged), [false, false]);
  },
  async images() {
    assert.equal((await client.images.generate({ model: "scripted", prompt: "A cat" })).data[0].b64_json, PNG);
    const image = await toFile(Buffer.from(PNG, "base64"), "a.png", { type: "image/png" });
    assert.equal((await client.images.edit({ model: "scripted", prompt: "A dog", image })).data[0].b64_json, PNG);
  },
  async speech() {
    const answer = await client.audio.speech.create({ model: "scripted", voice: "alloy", input: "Hello" });
    assert.equal((await answer.arrayBuffer()).byteLength, SOUND_BYTES);
  },
  async transcriptions() {
    const file = await toFile(Buffer.from("RIFF".repeat(9)), "a.wav");
    assert.equal((await client.audio.transcriptions.create({ model: "scripted", file })).text, TEXT);
  },
  async files() {
    const body = { model: "scripted", messages: HELLO };
    const line = { custom_id: "1", method: "POST", url: "/v1/chat/completions", body };
    const file = await toFile(Buffer.from(`${JSON.stringify(line)}\n`), "batch.jsonl");
    const kept = await client.files.create({ file, purpose: "batch" });
    const endpoint = "/v1/chat/completions";
    const batch = await client.batches.create({ input_file_id: kept.id, endpoint, completion_window: "24h" });
    assert.equal((await client.batches.retrieve(batch.id)).status, "validating");
    assert.ok((await client.files.delete(kept.id)).deleted);
  },
  async wrong_key() {
    const stranger = new OpenAI({ baseURL: given.url, apiKey: given.wrong_key });
    await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
  },
  async quota() {
    const spent = new OpenAI({ baseURL: given.url, apiKey: given.spent_key });
    const asked = spent.chat.completions.create({ model: "scripted", messages: HELLO });
    await assert.rejects(asked, OpenAI.RateLimitError);
  },
  async broken_stream() {
    const stream = await client.chat.completions.create({ model: "breaks-off", messages: HELLO, stream: true });
    await assert.rejects(collected(stream), OpenAI.APIError);
    const events = await client.responses.create({ model: "breaks-off", input: "Hello", stream: true });
    await assert.rejects(collected(events), OpenAI.APIError);
  },
  async hang_up() {
    const stream = await client.chat.completions.create({ model: "endless", messages: HELLO, stream: true });
    for await (const chunk of stream) {
      assert.equal(chunk.choices[0].delta.role, "assistant");
      break;
    }
  },
});
