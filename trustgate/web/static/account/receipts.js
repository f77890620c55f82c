// The tenant's receipts: found by what they say, opened, and checked in this page.

import {
  ask, button, choice, day, download, facts, field, fill, h, instant, link, message, name, number, table, usd,
} from "./common.js";
import { bundleOf, check, checkList, sentence } from "./checks.js";

export async function show(place, { account, rest }) {
  return rest[0] ? one(place, account, rest[0]) : list(place);
}

function query(values) {
  return new URLSearchParams(Object.entries(values).filter(([, value]) => value)).toString();
}

async function list(place) {
  const input = (id, attributes) => h("input", { id, autocomplete: "off", spellcheck: "false", ...attributes });
  const model = input("model", { placeholder: "any, or a glob: openai/*" });
  const status = choice("status", [["", "any"], ["ok", "answered"], ["failed", "refused or failed"]], "");
  const since = input("since", { type: "date" });
  const last = input("last", { type: "date" });
  const id = input("id", { placeholder: "rcpt_…" });
  const shown = h("div");
  const form = h(
    "form",
    { class: "line", id: "find" },
    field("Model", model), field("Outcome", status), field("From (UTC)", since), field("To (UTC)", last),
    h("div", { class: "field" }, h("button", { class: "main" }, "Search")),
  );
  const open = h("form", { class: "line", id: "open" }, field("Or by its id", id), h("div", { class: "field" }, h("button", null, "Open")));
  const load = (after = "") =>
    fill(shown, async () => {
      const next = last.value ? day(new Date(Date.parse(`${last.value}T00:00:00Z`) + 86_400_000)) : "";
      const wanted = { model: model.value.trim(), status: status.value, since: since.value, before: next, after, limit: "25" };
      const found = await ask(`/v1/receipts?${query(wanted)}`);
      return [
        table(
          "Receipts, the newest first",
          [["Time (UTC)", "whole"], "Model", ["Status", "n"], ["Tokens", "n"], ["Cost", "n"], ["Receipt", "whole"]],
          found.data.map(({ receipt }) => [
            instant(receipt.created_us).slice(0, 19),
            name(receipt.model || receipt.finish),
            String(receipt.status),
            number(receipt.prompt_tokens + receipt.completion_tokens),
            usd(billed(receipt)),
            link(`#receipts/${encodeURIComponent(receipt.id)}`, `…${receipt.id.slice(-8)}`),
          ]),
          h("span", null, "No receipt is like that. Every request leaves one: ", link("#playground", "make one in the playground"), "."),
        ),
        h(
          "div",
          { class: "pager" },
          after ? button("Newest", () => load()) : null,
          found.has_more ? button("Older", () => load(found.last_id)) : null,
        ),
      ];
    });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    load();
  });
  open.addEventListener("submit", (event) => {
    event.preventDefault();
    if (id.value.trim()) location.hash = `#receipts/${encodeURIComponent(id.value.trim())}`;
  });
  place.replaceChildren(form, open, shown);
  await load();
}

export const billed = (receipt) => receipt.billed_nano_usd ?? receipt.cost_nano_usd;

async function one(place, account, id) {
  const shown = h("div");
  place.replaceChildren(h("p", { class: "crumbs" }, link("#receipts", "All receipts")), shown);
  await fill(shown, async () => {
    const { receipt, seq, leaf_hash: leaf } = await ask(`/v1/receipts/${encodeURIComponent(id)}`);
    const file = (title, field) => [h("label", { for: field }, title), h("input", { type: "file", id: field })];
    const verdict = h("div", { id: "verdict", "aria-live": "polite" });
    const contents = h(
      "details",
      null,
      h("summary", null, "What you sent and what you got"),
      h("p", { class: "soft" }, "If you kept them, byte for byte: the receipt then shows that it is for these. They stay in this page."),
      h("div", { class: "field" }, file("The request's body", "sent")),
      h("div", { class: "field" }, file("The response's body", "got")),
    );
    const bytes = async (field) => {
      const [chosen] = document.getElementById(field).files;
      return chosen ? new Uint8Array(await chosen.arrayBuffer()) : null;
    };
    const verify = () =>
      fill(verdict, async () => {
        const given = { request: await bytes("sent"), response: await bytes("got") };
        const found = await check(await bundleOf(id), account.log.vkey, given);
        return [message(...sentence(found, "receipt")), checkList(found)];
      });
    return [
      h("p", null, h("code", null, receipt.id)),
      facts([
        ["Time", instant(receipt.created_us)],
        ["Model", [name(receipt.model || "–"), receipt.upstream_model ? `, answered by ${name(receipt.upstream_model)}` : ""]],
        ["Endpoint", name(receipt.endpoint) + (receipt.stream ? ", streamed" : "")],
        ["Ended", `${receipt.finish.replaceAll("_", " ")}, status ${receipt.status}`],
        ["Prompt", `${number(receipt.prompt_tokens)} tokens`],
        ["Completion", `${number(receipt.completion_tokens)} tokens`],
        ["Cost", receipt.price_known === false ? "not known: the model had no price" : usd(receipt.cost_nano_usd)],
        ["Billed", usd(billed(receipt))],
        receipt.charged_nano_usd ? ["Charged to your balance", usd(receipt.charged_nano_usd)] : null,
        receipt.credited_nano_usd ? ["Credited to your balance", usd(receipt.credited_nano_usd)] : null,
        ["Key", h("code", null, receipt.key || "none")],
        ["Place in the log", number(seq)],
        ["Leaf hash", h("code", null, leaf)],
      ]),
      h(
        "div",
        { class: "buttons" },
        h("button", { type: "button", class: "main", id: "verify", onclick: verify }, "Verify in this page"),
        button("Download the bundle", () => fill(verdict, async () => {
          download(await bundleOf(id), `${id}.json`);
          return message("good", "Anybody can check the file: with trustgate receipt verify, or with examples/verify.");
        })),
      ),
      contents,
      verdict,
    ];
  });
}
