// The balance, what adding to it costs and on which networks (x402), and the payments there were.

import { ask, copied, field, figures, fill, h, message, name, Refusal, send, table, usd } from "./common.js";
import { networkName } from "./networks.js";
import { payWith, wallets } from "./wallets.js";

const STATES = { delivered: "good", settled: "good", credited: "good", failed: "bad", unknown: "wary" };

/** Whether a payment is with a wallet: a second one begun meanwhile would be paid too. */
let isPaying = false;

function setPaying(on) {
  isPaying = on;
  document.querySelectorAll("#add button, #wallets button").forEach((each) => { each.disabled = on; });
}

export async function show(place) {
  const card = h("div");
  const topUp = h("div");
  const payments = h("div");
  place.replaceChildren(card, topUp, h("h2", null, "Payments"), payments);
  const reload = async () => {
    await showBalance();
    await showPayments();
  };
  const showBalance = () => fill(card, async () => {
    const credits = await ask("/v1/credits");
    if (credits.top_up_usd !== null && !topUp.firstChild) topUp.replaceChildren(adding(credits, reload));
    const { contact } = credits;
    return [
      figures([
        ["Balance", usd(credits.balance_nano_usd)],
        credits.held_nano_usd ? ["Held for running requests", usd(credits.held_nano_usd)] : null,
        credits.price_usd === null ? null : ["Price of a request", `$${credits.price_usd}`],
      ]),
      credits.mode === "off" ? h("p", null, "This account does not pay for its requests.") : null,
      contact ? h("p", null, "To get more: ", /^https:\/\//.test(contact) ? h("a", { href: contact, rel: "noreferrer" }, name(contact)) : name(contact)) : null,
    ];
  });
  const showPayments = () => fill(payments, async () => {
    const { data } = await ask("/v1/payments?limit=50");
    return table(
      "Payments, the newest first",
      [["Time (UTC)", "whole"], ["Value", "n"], "Network", "State", "Transaction"],
      data.map((each) => [
        new Date(each.created * 1000).toISOString().slice(0, 19).replace("T", " "),
        usd(each.value_nano_usd),
        networkName(each.network),
        h("span", { class: `state ${STATES[each.state] ?? ""}` }, each.state),
        each.transaction ? h("code", null, name(each.transaction)) : "–",
      ]),
      "There is no payment yet.",
    );
  });
  await reload();
}

function adding(credits, reload) {
  const sum = h("input", { id: "sum", inputmode: "decimal", pattern: "[0-9]+(\\.[0-9]{1,9})?", value: credits.top_up_usd, required: true });
  const offer = h("div", { id: "offer", "aria-live": "polite" });
  const form = h(
    "form",
    { class: "line", id: "add" },
    field("Amount, USD", sum),
    h("div", { class: "field" }, h("button", { class: "main", disabled: isPaying }, "Show what it costs")),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (isPaying) return;
    const amount = sum.value;
    fill(offer, async () => offered(await priceOf(amount), amount, reload));
  });
  return h("section", { "aria-labelledby": "add-title" }, h("h2", { id: "add-title" }, "Add to the balance"), form, offer);
}

/** What the gateway asks for a top-up: the 402 says it; nothing is paid by asking. */
export async function priceOf(amount) {
  try {
    await send("/v1/credits", { method: "POST", body: JSON.stringify({ amount_usd: amount }) });
  } catch (error) {
    const required = error instanceof Refusal && error.status === 402 ? error.response.headers.get("payment-required") : null;
    if (required === null) throw error;
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(required), (each) => each.charCodeAt(0))));
  }
  throw new Refusal(0, { message: "The gateway did not ask for a payment." });
}

/** What pays here, with a wallet of the browser's: one choice for each wallet and each network that it knows. */
function paying(accepts, amount, reload) {
  const place = h("div", { id: "wallets" });
  const told = h("div", { id: "paid", "aria-live": "polite" });
  const draw = (wallets) => {
    const choices = wallets.flatMap((wallet) =>
      accepts.filter(wallet.takes).map((offer) =>
        h("button", { type: "button", class: "main", disabled: isPaying, onclick: () => pay(wallet, offer) },
          `Pay with ${name(wallet.name)} on ${networkName(offer.network)}`)),
    );
    place.replaceChildren(...(choices.length ? [h("div", { class: "buttons" }, choices)] : [
      h("p", { class: "soft" }, "No wallet in this browser can pay this: none has shown itself, or none knows these networks. ",
        "Open or install one, then load this page again; or let a program pay, as below."),
    ]));
  };
  async function pay(wallet, offer) {
    if (isPaying) return;
    setPaying(true);
    try {
      await fill(told, async () => {
        told.replaceChildren(h("p", null, "Confirm the payment in your wallet…"));
        const after = await payWith(wallet, offer, amount);
        return message("good", `Paid. The balance is ${usd(after.balance_nano_usd)} now.`);
      });
    } finally {
      setPaying(false);
    }
    await reload();
  }
  wallets(draw);
  return [h("h3", null, "Pay with a wallet in this browser"), place, told];
}

/** An amount as it was entered, with two decimals at least. */
function dollars(text) {
  const [whole, decimals = ""] = text.split(".");
  return `$${whole || "0"}.${decimals.padEnd(2, "0")}`;
}

function offered({ accepts }, amount, reload) {
  const command = `curl -s -X POST ${new URL("/v1/credits", location.href).href} \\
  -H "Authorization: Bearer $OPENAI_API_KEY" -H "Content-Type: application/json" \\
  -d '${JSON.stringify({ amount_usd: amount })}'`;
  return [
    table(
      "What it costs, by network",
      ["Network", ["Amount", "n"], "Token", "Paid to"],
      accepts.map((each) => [
        networkName(each.network),
        [dollars(amount), h("br"), h("small", null, `${name(each.amount)} atomic units`)],
        h("code", null, name(each.asset)),
        h("code", null, name(each.payTo)),
      ]),
    ),
    paying(accepts, amount, reload),
    h("h3", null, "Let a program with a wallet pay"),
    h("p", null, "Every x402 client pays this request; the answer is the new balance. Without a payment it answers 402 with the offers above:"),
    copied(command, "pay-command", "Command"),
    h("p", { class: "soft" }, "In Python, the x402 SDK's transport for httpx; for Node, @x402/fetch: examples/agent has both."),
  ];
}
