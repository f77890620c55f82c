// The keys of the tenant; made, limited and revoked here where the plan allows it.

import { ask, button, copied, field, fill, h, instant, message, name, number, table, usd } from "./common.js";

const WINDOWED = /^(requests|tokens|cost_nano_usd)_per_(minute|day|month)$/;

export async function show(place, { account }) {
  const allowed = account.plan.own_keys;
  const told = h("div", { "aria-live": "polite" });
  const list = h("div");
  const load = () => fill(list, async () => keyTable((await ask("/v1/keys")).data, allowed > 0, revoke));

  async function revoke(key) {
    // What destroys asks first, and says what will stop working.
    if (!confirm(`Revoke the key "${name(key.name)}" (${key.redacted})? What uses it stops working at once.`)) return;
    await fill(told, async () => {
      await ask(`/v1/keys/${encodeURIComponent(key.id)}`, { method: "DELETE" });
      return message("good", `The key ${name(key.name)} is revoked: its next request is refused.`);
    });
    await load();
  }

  place.replaceChildren(
    list,
    told,
    allowed > 0
      ? maker(account, told, load)
      : h("p", { class: "soft" }, "Your plan leaves keys to the operator of this gateway: ask there for another, or to revoke one."),
  );
  await load();
}

function keyTable(keys, withButtons, revoke) {
  return table(
    "Keys",
    ["Name", ["Key", "whole"], "Made by", "Limits", ["Expires", "whole"], ...(withButtons ? [h("span", { class: "visually-hidden" }, "Revoke")] : [])],
    keys.map((key) => [
      [name(key.name), key.is_this ? h("span", { class: "state good" }, "this key") : null],
      h("code", null, key.redacted),
      key.made_by === "operator" ? "the operator" : "your key",
      limitsOf(key),
      key.expires_at === null ? "never" : instant(key.expires_at * 1e6),
      ...(withButtons
        ? [key.made_by === "operator" ? "" : h("button", {
            type: "button", class: "danger small", "aria-label": `Revoke ${name(key.name)}`, onclick: () => revoke(key),
          }, "Revoke")]
        : []),
    ]),
  );
}

function limitsOf(key) {
  const words = Object.entries(key.limits).map(([limit, most]) => {
    const [, unit, window] = WINDOWED.exec(limit) ?? [];
    if (unit === "cost_nano_usd") return `${usd(most)} a ${window}`;
    return unit ? `${number(most)} ${unit} a ${window}` : `${limit.replaceAll("_", " ")} ${number(most)}`;
  });
  if (!key.models.includes("*")) words.unshift(`models ${key.models.map(name).join(", ")}`);
  return words.join("; ") || "as the plan";
}

function maker(account, told, load) {
  const input = (id, attributes = {}) => h("input", { id, ...attributes });
  const title = input("new-name", { required: true, maxlength: "64", autocomplete: "off" });
  const models = input("new-models", { autocomplete: "off", spellcheck: "false" });
  const requests = input("new-requests", { type: "number", min: "0", step: "1", inputmode: "numeric" });
  const spending = input("new-spending", { inputmode: "decimal", pattern: "[0-9]+(\\.[0-9]{1,9})?" });
  const expires = input("new-expires", { type: "date" });
  const form = h(
    "form",
    { id: "new-key", class: "card" },
    h("h2", null, "Make a key"),
    h("p", { class: "soft" }, `Your plan allows ${number(account.plan.own_keys)} keys of your own at once. A key never allows more than your plan.`),
    field("Name", title, "What it is for, such as the app that will use it."),
    field("Models", models, "Names or globs with commas between them, such as gpt-4o, openai/*. Empty: all of your plan."),
    field("Requests a day", requests, "Empty: as your plan."),
    field("Spending a month, USD", spending, "Empty: as your plan."),
    field("Expires on (0:00 UTC)", expires, "Empty: with this key."),
    h("div", { class: "buttons" }, h("button", { class: "main" }, "Make the key")),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const globs = models.value.split(",").map((glob) => glob.trim()).filter(Boolean);
    const limits = {};
    if (requests.value) limits.requests_per_day = Number(requests.value);
    if (spending.value) limits.usd_per_month = spending.value;
    const body = { name: title.value.trim(), limits };
    if (globs.length) body.models = globs;
    if (expires.value) body.expires_at = Date.parse(`${expires.value}T00:00:00Z`) / 1000;
    await fill(told, async () => {
      const key = await ask("/v1/keys", { method: "POST", body });
      form.reset();
      return secretCard(key, told);
    });
    await load();
  });
  return form;
}

/** The only sight of a secret: it is in this element alone, and gone with it. */
function secretCard(key, told) {
  return h(
    "div",
    { class: "message good", role: "status" },
    h("p", null, `The key ${name(key.name)} is made. Save it now: it is not shown again.`),
    copied(key.secret, "secret", "The new key", "secret"),
    button("I have saved it", () => told.replaceChildren(), "small"),
  );
}
