// Usage by day, model and key: a chart, and its figures beside it.

import { amount, ask, choice, columns, day, field, fill, h, name, number, table, usd } from "./common.js";

const SPANS = [["7", "7 days"], ["30", "30 days"], ["90", "90 days"], ["365", "a year"]];
const UNITS = [["requests", "Requests"], ["tokens", "Tokens"], ["cost_nano_usd", "Cost"]];

const valueOf = {
  requests: (row) => row.requests,
  tokens: (row) => row.prompt_tokens + row.completion_tokens,
  cost_nano_usd: (row) => row.billed_nano_usd,
};

export async function show(place, { account }) {
  const span = choice("span", SPANS, "30");
  const unit = choice("unit", UNITS, "requests");
  const shown = h("div");
  const form = h("form", { class: "line" }, field("Span", span), field("Chart of", unit));
  form.addEventListener("submit", (event) => event.preventDefault());
  let found = null;
  const draw = () => fill(shown, async () => drawn(found, unit.value, Number(span.value)));
  const load = () =>
    fill(shown, async () => {
      const since = day(new Date(Date.now() - (Number(span.value) - 1) * 86_400_000));
      const rows = (by) => ask(`/v1/usage?by=${by}&since=${since}`).then((answer) => answer.data);
      const [days, models, keys, names] = await Promise.all([rows("day"), rows("model"), rows("key"), keyNames()]);
      found = { days, models, keys, names };
      return drawn(found, unit.value, Number(span.value));
    });
  span.addEventListener("change", load);
  unit.addEventListener("change", draw);
  place.replaceChildren(form, shown);
  await load();
  return null;
}

async function keyNames() {
  const { data } = await ask("/v1/keys");
  return new Map(data.map((key) => [key.id, key.name]));
}

function drawn({ days, models, keys, names }, unit, span) {
  const byDay = new Map(days.map((row) => [row.group, row]));
  const title = UNITS.find(([value]) => value === unit)[1];
  const bars = Array.from({ length: span }, (_, at) => {
    const date = day(new Date(Date.now() - (span - 1 - at) * 86_400_000));
    const value = byDay.has(date) ? valueOf[unit](byDay.get(date)) : 0;
    return { name: date.slice(5), value, written: amount(unit, value) };
  });
  const heads = [["Requests", "n"], ["Refused or failed", "n"], ["Prompt tokens", "n"], ["Completion tokens", "n"], ["Cost", "n"]];
  const cells = (row) => [
    number(row.requests), number(row.failed + row.refused), number(row.prompt_tokens), number(row.completion_tokens),
    [usd(row.billed_nano_usd), row.unpriced ? " *" : ""],
  ];
  const grouped = (caption, first, rows, title = name) => [
    h("h2", null, caption),
    table(caption, [first, ...heads], rows.map((row) => [title(row.group), ...cells(row)]), "Nothing was used in this span."),
  ];
  const unpriced = days.some((row) => row.unpriced);
  return [
    columns(`${title} a day (UTC)`, bars),
    grouped("By model", "Model", models),
    grouped("By day", "Day (UTC)", days.toReversed()),
    grouped("By key", "Key", keys, (id) => name(names.get(id) ?? id)),
    unpriced ? h("p", { class: "soft" }, "* Some requests were for a model without a price: they count as nothing.") : null,
  ];
}
