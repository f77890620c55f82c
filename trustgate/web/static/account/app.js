// The account page: signing in, moving between views, and the overview. The other views are loaded when they are asked for.

import {
  amount, announce, ask, copied, facts, field, figures, fill, h, instant, message, name, number, Refusal, session, table, until, usd,
} from "./common.js";

const VIEWS = {
  overview: { title: "Overview", load: async () => ({ show: overview }) },
  playground: { title: "Playground", load: () => import("./playground.js") },
  usage: { title: "Usage", load: () => import("./usage.js") },
  receipts: { title: "Receipts", load: () => import("./receipts.js") },
  statements: { title: "Statements", load: () => import("./statements.js") },
  keys: { title: "Keys", load: () => import("./keys.js") },
  balance: { title: "Balance", load: () => import("./balance.js") },
};

const view = document.getElementById("view");
const navigation = document.querySelector("nav.pages");
const signOut = document.getElementById("sign-out");
let account = null;
let isFresh = false;
/** What the view that is shown ends with: a stream is stopped when its view is left. */
let leave = null;

function signIn(refused = "") {
  account = null;
  navigation.hidden = true;
  signOut.hidden = true;
  document.title = "Sign in – TrustGate";
  // Without a name it cannot become a part of an address, whatever a form does.
  const key = h("input", {
    id: "key", type: "password", autocomplete: "off", spellcheck: "false", placeholder: "tgk_…", required: true,
    "aria-invalid": refused ? "true" : null,
  });
  const form = h(
    "form",
    { id: "sign-in", class: "card" },
    field("API key", key, "It begins with tgk_. The operator of this gateway has given it to you."),
    h("div", { class: "buttons" }, h("button", { class: "main" }, "Sign in")),
    h("p", { class: "soft" }, "The key stays in this tab, and is forgotten when you sign out or close it."),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    session.begin(key.value.trim());
    await start();
  });
  view.replaceChildren(h("h1", null, "Your account"), ...(refused ? [message("bad", name(refused))] : []), form);
  key.focus();
}

async function start() {
  // A header takes no other characters; the gateway would not know such a key either.
  if (!/^[\x21-\x7e]+$/.test(session.key)) {
    session.end();
    signIn("This is not an API key: it has characters that no key has.");
    return;
  }
  try {
    account = await ask("/v1/account");
    isFresh = true;
  } catch (error) {
    if (error instanceof Refusal && error.status === 401) session.end();
    signIn(error.message);
    return;
  }
  navigation.hidden = false;
  signOut.hidden = false;
  await show();
}

async function show() {
  if (account === null) return;
  leave?.();
  leave = null;
  const [wanted, ...rest] = location.hash.slice(1).split("/");
  const chosen = Object.hasOwn(VIEWS, wanted) ? wanted : "overview";
  const { title, load } = VIEWS[chosen];
  document.title = `${title} – TrustGate`;
  for (const entry of navigation.children) {
    if (entry.hash === `#${chosen}`) entry.setAttribute("aria-current", "page");
    else entry.removeAttribute("aria-current");
  }
  const heading = h("h1", { tabindex: "-1" }, title);
  const place = h("div");
  view.replaceChildren(heading, place);
  heading.focus({ preventScroll: true });
  scrollTo(0, 0);
  try {
    const module = await load();
    leave = (await module.show(place, { account, rest: rest.map(decodeURIComponent), reload: show })) ?? null;
  } catch (error) {
    if (error instanceof Refusal && error.status === 401) {
      session.end();
      signIn(`You have been signed out: ${error.message}`);
      return;
    }
    place.replaceChildren(message("bad", `This view cannot be shown: ${name(error.message ?? error)}`));
  }
}

const WINDOWS = { minute: "a minute", day: "a day", month: "a month" };
const UNITS = { requests: "Requests", tokens: "Tokens", cost_nano_usd: "Spending" };

async function overview(place) {
  await fill(place, async () => {
    if (!isFresh) account = await ask("/v1/account");
    isFresh = false;
    const { tenant, plan, key, limits, budgets, payment } = account;
    const credits = payment === "off" ? null : await ask("/v1/credits");
    const today = limits.find((each) => each.unit === "requests" && each.window === "day");
    return [
      figures([
        ["Account", name(tenant.name), tenant.id],
        ["Plan", name(plan.name), plan.price_factor === 1 ? "" : `billed at ${plan.price_factor} times the price`],
        ["This key", name(key.name), key.redacted],
        today ? ["Requests left today", number(today.left), `of ${number(today.limit)}; resets ${until(today.resets_us)}`] : null,
        credits ? ["Balance", usd(credits.balance_nano_usd), "what your requests draw on"] : null,
      ]),
      h("h2", null, "Limits"),
      table(
        "Limits of your plan and of this key",
        ["Limit", ["Used", "n"], ["Left", "n"], "Resets"],
        limits.map((each) => [
          [`${UNITS[each.unit]} ${WINDOWS[each.window]}`, each.of === "key" ? " (this key)" : ""],
          [amount(each.unit, each.used), " of ", amount(each.unit, each.limit)],
          amount(each.unit, each.left),
          h("span", { title: instant(each.resets_us) }, until(each.resets_us)),
        ]),
        "Your plan has no limits on requests, tokens or spending.",
      ),
      budgets.length ? h("h2", null, "Budgets") : null,
      budgets.length ? table("Budgets that your requests draw on", ["Budget", ["Used", "n"], ["Left", "n"], "Resets"], budgets.map(budget)) : null,
      h("h2", null, "What you may use"),
      facts([
        ["Models", all(plan.models, key.models)],
        ["Endpoints", all(plan.endpoints, key.endpoints)],
        ["Features", all(plan.features, key.features)],
        ["Requests at once", most(plan.parallel_requests, key.parallel_requests)],
        ["Longest completion", most(plan.max_tokens, key.max_tokens, " tokens")],
        ["Longest prompt", most(plan.max_prompt_tokens, key.max_prompt_tokens, " tokens")],
      ]),
      h("h2", null, "Connect"),
      h("p", null, "Every OpenAI client works with your key and this base URL:"),
      copied(new URL("/v1", location.href).href, "base-url", "Base URL"),
      h("p", null, "A first request, with your key in OPENAI_API_KEY and a model in the place of MODEL; or ask in the ", h("a", { href: "#playground" }, "playground"), ":"),
      copied(firstRequest(), "first-request", "A first request"),
    ];
  });
}

function firstRequest() {
  const body = JSON.stringify({ model: "MODEL", messages: [{ role: "user", content: "Hello" }] });
  return `curl -s ${new URL("/v1/chat/completions", location.href).href} \\
  -H "Authorization: Bearer $OPENAI_API_KEY" -H "Content-Type: application/json" \\
  -d '${body}'`;
}

function budget(each) {
  const figure = (value) => (value === undefined ? "–" : amount(each.unit, value));
  const left = each.reached === undefined ? figure(each.left) : each.reached ? "none" : "some";
  return [
    [name(each.name), each.hard ? "" : " (only told, not held)"],
    [figure(each.used), " of ", amount(each.unit, each.amount)],
    left,
    each.resets_us ? h("span", { title: instant(each.resets_us) }, until(each.resets_us)) : "never",
  ];
}

/** What both the plan and the key let pass. */
function all(ofPlan, ofKey) {
  const words = (globs) => (globs.includes("*") ? "all" : globs.map(name).join(", "));
  return ofKey.includes("*") ? words(ofPlan) : `${words(ofKey)} (this key); plan: ${words(ofPlan)}`;
}

function most(...given) {
  const unit = typeof given.at(-1) === "string" ? given.pop() : "";
  const set = given.filter((value) => value !== null && value !== undefined);
  return set.length ? `${number(Math.min(...set))}${unit}` : "no limit";
}

signOut.addEventListener("click", () => {
  leave?.();
  leave = null;
  session.end();
  signIn();
  announce("You have signed out.");
});
addEventListener("hashchange", show);
if (session.key) await start();
else signIn();
