// A chat with a model whose answers prove themselves: under each its receipt, checked here when the log has it.

import { ask, button, choice, field, fill, h, link, message, name, number, Refusal, send, usd } from "./common.js";
import { bundleOf, check, checkList, sentence } from "./checks.js";
import { billed } from "./receipts.js";

const CHARACTERS_A_TOKEN = 4;

export async function show(place, { account }) {
  const { data } = await ask("/v1/models?available=true");
  const models = data.filter((model) => !model.capabilities?.length || model.capabilities.includes("chat"));
  if (models.length === 0) {
    place.replaceChildren(message("wary", "No model that can chat is available to this key right now."));
    return null;
  }
  const allowed = (globs) => globs.includes("*") || globs.includes("streaming");
  const streams = allowed(account.plan.features) && allowed(account.key.features);
  const talk = h("div", { id: "talk", role: "log", "aria-label": "Conversation" });
  const model = choice("model", models.map((each) => [each.id, name(each.id)]), models[0].id);
  const price = h("small", { id: "price" });
  const text = h("textarea", { id: "text", required: true, rows: "4" });
  const stop = h("button", { type: "button", id: "stop", disabled: true }, "Stop");
  const ask_ = h("button", { class: "main", id: "send" }, "Send");
  const form = h(
    "form",
    { id: "ask", class: "card" },
    h("div", { class: "line" }, field("Model", model), price),
    field("Message", text, "Ctrl+Enter sends it."),
    h("div", { class: "buttons" }, ask_, stop, button("New conversation", () => { messages.length = 0; talk.replaceChildren(); text.focus(); })),
  );
  const messages = [];
  let running = null;

  const chosen = () => models.find((each) => each.id === model.value);
  const showPrice = () => { price.textContent = priceOf(chosen()); };
  model.addEventListener("change", showPrice);
  showPrice();
  stop.addEventListener("click", () => running?.abort());
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (running !== null || !text.value.trim()) return;
    messages.push({ role: "user", content: text.value });
    talk.append(turn("You", text.value, "user"));
    text.value = "";
    running = new AbortController();
    [ask_.disabled, stop.disabled] = [true, false];
    try {
      await answer(talk, account, chosen(), messages, streams, running.signal);
    } finally {
      running = null;
      [ask_.disabled, stop.disabled] = [false, true];
      text.focus();
    }
  });
  place.replaceChildren(
    h("p", { class: "soft" }, "What you ask here is a request like any other: it counts, and it is billed. Each answer's receipt is checked in this page."),
    talk,
    form,
  );
  return () => running?.abort();
}

function priceOf({ pricing }) {
  if (!pricing) return "This model has no price.";
  const million = (text) => `$${(Number(text) * 1e6).toLocaleString("en", { maximumFractionDigits: 4 })}`;
  if (![pricing.prompt, pricing.completion, pricing.request ?? 0].some(Number)) return "This model is free.";
  const each = Number(pricing.request ?? 0) ? `, $${pricing.request} a request` : "";
  return `${million(pricing.prompt)} a million tokens in, ${million(pricing.completion)} out${each}`;
}

function turn(who, text, kind) {
  return h("article", { class: `turn ${kind}` }, h("p", { class: "who" }, who), h("div", { class: "said" }, text));
}

/** Ask, show the answer as it comes, and then its receipt. */
async function answer(talk, account, model, messages, streams, signal) {
  const shown = turn(name(model.id), "", "model");
  const said = shown.querySelector(".said");
  const meter = h("p", { class: "meter" }, "Waiting…");
  const proof = h("div", { class: "proof" });
  shown.append(meter, proof);
  talk.append(shown);
  shown.scrollIntoView({ block: "nearest" });
  const request = JSON.stringify({
    model: model.id,
    messages,
    ...(streams ? { stream: true, stream_options: { include_usage: true } } : {}),
  });
  const prompt = Math.ceil(messages.reduce((sum, each) => sum + each.content.length, 0) / CHARACTERS_A_TOKEN);
  let [text, usage, receipt, isWhole] = ["", null, null, false];
  const pieces = [];
  const count = () => {
    const [sent, got] = usage ? [usage.prompt_tokens, usage.completion_tokens] : [prompt, Math.ceil(text.length / CHARACTERS_A_TOKEN)];
    const cost = model.pricing
      ? sent * Number(model.pricing.prompt) + got * Number(model.pricing.completion) + Number(model.pricing.request ?? 0)
      : null;
    const about = usage ? "" : "about ";
    meter.textContent = `${about}${number(sent)} tokens in, ${number(got)} out` + (cost === null ? "" : `, ${about}$${cost.toFixed(6)}`);
  };
  const add = (more) => {
    text += more;
    said.textContent = text;
    count();
  };
  try {
    const response = await send("/v1/chat/completions", { method: "POST", body: request, signal });
    receipt = response.headers.get("x-trustgate-receipt");
    const reader = response.body.getReader();
    const events = new Events((event) => {
      if (event.error) throw new Refusal(response.status, event.error);
      usage = event.usage ?? usage;
      add(event.choices?.[0]?.delta?.content ?? "");
    });
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      pieces.push(value);
      if (streams) events.take(value);
    }
    if (!streams) {
      const whole = JSON.parse(new TextDecoder().decode(joined(pieces)));
      usage = whole.usage ?? null;
      add(whole.choices?.[0]?.message?.content ?? "");
    }
    isWhole = true;
    count();
  } catch (error) {
    if (error.name === "AbortError") {
      meter.textContent += " – stopped by you";
    } else {
      receipt ??= error.response?.headers.get("x-trustgate-receipt") ?? null;
      shown.insertBefore(message("bad", error instanceof Refusal ? name(error.message) : "The answer broke off."), meter);
      meter.textContent = "";
      if (!text) messages.pop();
    }
  }
  if (text) messages.push({ role: "assistant", content: text });
  if (receipt !== null && text) {
    const contents = { request: new TextEncoder().encode(request), response: isWhole ? joined(pieces) : null };
    await fill(proof, () => proven(account, receipt, contents, meter));
  }
}

/** The receipt of an answer, checked. */
async function proven(account, id, contents, meter) {
  const { receipt } = await taken(id);
  meter.textContent =
    `${number(receipt.prompt_tokens)} tokens in, ${number(receipt.completion_tokens)} out, ` +
    `billed ${receipt.price_known === false ? "nothing: the model has no price" : usd(billed(receipt))}` +
    (receipt.finish === "complete" ? "" : ` – ${receipt.finish.replaceAll("_", " ")}`);
  const verdict = await check(await bundleOf(id), account.log.vkey, contents);
  const [mood, words] = sentence(verdict, "receipt");
  const opened = contents.response === null ? "what you sent" : "what you sent and what you got";
  return [
    h("p", null, h("span", { class: `state ${mood}` }, mood === "good" ? "verified" : "not verified"), " ",
      mood === "good" ? `${words} It is for ${opened}, byte for byte.` : words, " ",
      link(`#receipts/${encodeURIComponent(id)}`, "Open the receipt")),
    h("details", null, h("summary", null, "Each check"), checkList(verdict)),
  ];
}

/** A receipt is written when its answer has ended: a moment after the last byte, where the answer was broken off. */
async function taken(id) {
  for (let wait = 100; ; wait *= 2) {
    try {
      return await ask(`/v1/receipts/${encodeURIComponent(id)}`);
    } catch (error) {
      if (!(error instanceof Refusal) || error.status !== 404 || wait > 5_000) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
}

/** Server-sent events with JSON in them, from bytes as they come. */
class Events {
  constructor(take) {
    this.onEvent = take;
    this.decoder = new TextDecoder();
    this.rest = "";
  }

  take(bytes) {
    this.rest += this.decoder.decode(bytes, { stream: true });
    const lines = this.rest.split(/\r\n|\n|\r/);
    this.rest = lines.pop();
    for (const line of lines) {
      const data = line.startsWith("data:") ? line.slice(5).trim() : "";
      if (data && data !== "[DONE]") this.onEvent(JSON.parse(data));
    }
  }
}

function joined(pieces) {
  const whole = new Uint8Array(pieces.reduce((length, piece) => length + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}
