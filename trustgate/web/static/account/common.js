// What every view of the account page uses: the API with the tenant's key, elements, words for figures, a chart.
// Text from outside becomes text nodes, never markup; the page's policy (trusted types) would refuse it otherwise.

const KEPT = "trustgate.key";

/** The key: in this tab alone, and gone with it. */
export const session = {
  get key() {
    return sessionStorage.getItem(KEPT) ?? "";
  },
  begin(key) {
    sessionStorage.setItem(KEPT, key);
  },
  end() {
    sessionStorage.clear();
  },
};

/** A refusal of the gateway, or none at all where it does not answer. */
export class Refusal extends Error {
  constructor(status, error, response = null) {
    super(error?.message ?? `The gateway answered with status ${status}.`);
    this.status = status;
    this.code = error?.code ?? null;
    this.response = response;
  }
}

/** Ask the gateway; gives the response. Throws a Refusal. */
export async function send(path, { method = "GET", body, headers = {}, signal } = {}) {
  const given = { authorization: `Bearer ${session.key}`, ...headers };
  if (body !== undefined) given["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: given,
      body: typeof body === "string" || body === undefined ? body : JSON.stringify(body),
      credentials: "omit",
      cache: "no-store",
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, { message: "The gateway does not answer. Check the connection, then try again." });
  }
  if (response.ok) return response;
  let error = null;
  try {
    error = (await response.clone().json()).error;
  } catch {
    // No JSON: something before the gateway has answered.
  }
  throw new Refusal(response.status, error, response);
}

export async function ask(path, options) {
  return (await send(path, options)).json();
}

// elements

const SVG = "http://www.w3.org/2000/svg";
const SVG_TAGS = new Set(["svg", "rect", "text", "line", "title"]);

/** An element: attributes as an object (true is without a value, null and false are left out; on… is a listener). */
export function h(name, attributes = null, ...children) {
  const made = SVG_TAGS.has(name) ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat(9).filter((child) => child !== null && child !== undefined));
  return made;
}

/** Text from outside on one line: control characters, and signs that change the direction, made visible. */
export function name(text) {
  return String(text).replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, "\ufffd");
}

export function link(href, ...children) {
  return h("a", { href }, ...children);
}

export function button(title, onclick, kind = "") {
  return h("button", { type: "button", class: kind || null, onclick }, title);
}

/** What is to be copied, with a button that does it; `title` is for a screen reader. */
export function copied(text, id, title, kind = null) {
  const shown = h("pre", { class: kind, id, tabindex: "0", role: "region", "aria-label": title }, text);
  const copy = button("Copy", async () => {
    try {
      await navigator.clipboard.writeText(text);
      announce("Copied.");
      copy.textContent = "Copied";
    } catch {
      copy.textContent = "Not copied";
    }
    setTimeout(() => { copy.textContent = "Copy"; }, 1500);
  }, "small");
  return h("div", { class: "command" }, shown, navigator.clipboard ? copy : null);
}

/** A field with its label; `control` is an element with an id. */
export function field(title, control, note = "") {
  if (note) control.setAttribute("aria-describedby", `${control.id}-note`);
  return h(
    "div",
    { class: "field" },
    h("label", { for: control.id }, title),
    control,
    note ? h("small", { id: `${control.id}-note` }, note) : null,
  );
}

export function choice(id, options, chosen) {
  const select = h("select", { id });
  for (const [value, title] of options) select.append(h("option", { value, selected: value === chosen }, title));
  return select;
}

export function message(mood, ...children) {
  return h("div", { class: `message ${mood}`, role: mood === "bad" ? "alert" : "status" }, h("p", null, ...children));
}

export function facts(pairs) {
  return h("dl", { class: "facts" }, pairs.filter(Boolean).map(([term, value]) => [h("dt", null, term), h("dd", null, value)]));
}

export function figures(pairs) {
  const made = pairs.filter(Boolean).map(([term, value, note]) =>
    h("div", null, h("dt", null, term), h("dd", null, value, note ? h("small", null, note) : null)),
  );
  return h("dl", { class: "figures" }, made);
}

/** A table that scrolls by itself. Columns: a title, or [title, "n"] for numbers. A row's first cell names it. */
export function table(caption, columns, rows, empty = "There is none.") {
  if (rows.length === 0) return h("p", { class: "soft" }, empty);
  const titles = columns.map((column) => (Array.isArray(column) ? column : [column, null]));
  const cells = (row) =>
    row.map((cell, at) => h(at ? "td" : "th", { class: titles[at][1], scope: at ? null : "row" }, cell));
  return h(
    "div",
    { class: "wide", tabindex: "0", role: "region", "aria-label": caption },
    h(
      "table",
      null,
      h("caption", { class: "visually-hidden" }, caption),
      h("thead", null, h("tr", null, titles.map(([title, kind]) => h("th", { scope: "col", class: kind }, title)))),
      h("tbody", null, rows.map((row) => h("tr", null, cells(row)))),
    ),
  );
}

/** Upright bars over time: [{name, value, written}]. The figures are in the table beside it. */
export function columns(caption, bars) {
  const [width, height, top, bottom] = [720, 200, 22, 24];
  const most = Math.max(0, ...bars.map((bar) => bar.value));
  const step = (width - 16) / Math.max(bars.length, 1);
  const every = Math.ceil(bars.length / 6);
  const drawn = [
    h("line", { class: "grid", x1: 8, x2: width - 8, y1: height - bottom, y2: height - bottom }),
    h("line", { class: "grid", x1: 8, x2: width - 8, y1: top, y2: top }),
    h("text", { x: 8, y: top - 7 }, `most: ${bars.find((bar) => bar.value === most)?.written ?? "0"}`),
  ];
  bars.forEach((bar, at) => {
    const tall = most ? ((height - top - bottom) * bar.value) / most : 0;
    const left = 8 + at * step;
    if (tall) {
      const box = { class: "bar", x: left + step * 0.12, y: height - bottom - Math.max(tall, 1), rx: 2 };
      const size = { width: step * 0.76, height: Math.max(tall, 1) };
      drawn.push(h("rect", { ...box, ...size }, h("title", null, `${bar.name}: ${bar.written}`)));
    }
    if (at % every === 0) {
      // The first one would begin outside of the picture.
      drawn.push(h("text", { x: at ? left + step / 2 : left, y: height - 8, "text-anchor": at ? "middle" : "start" }, bar.name));
    }
  });
  const picture = h("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": caption }, drawn);
  return h("figure", { class: "chart over-time" }, h("figcaption", null, caption), picture);
}

/** Put a text into the reader's ear without moving anything. */
export function announce(text) {
  document.getElementById("announce").textContent = text;
}

/** Replace what `place` shows by what `work` gives; meanwhile, and where it is refused, say so there. */
export async function fill(place, work) {
  place.setAttribute("aria-busy", "true");
  try {
    place.replaceChildren(...[await work()].flat(9).filter((child) => child !== null && child !== undefined));
  } catch (error) {
    if (error instanceof Refusal && error.status === 401) throw error;
    place.replaceChildren(message("bad", error instanceof Refusal ? name(error.message) : `This failed: ${error}`));
  } finally {
    place.removeAttribute("aria-busy");
  }
}

/** Give a file to the person at the browser. */
export function download(data, title, type = "application/json") {
  const address = URL.createObjectURL(new Blob([data], { type }));
  const anchor = h("a", { href: address, download: title });
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

// words

export const number = (value) => value.toLocaleString("en");

/** Nano-USD as dollars, exactly: at least two decimals. */
export function usd(nano) {
  const digits = String(Math.abs(nano)).padStart(10, "0");
  const decimals = digits.slice(-9).replace(/0+$/, "").padEnd(2, "0");
  return `${nano < 0 ? "-" : ""}$${Number(digits.slice(0, -9)).toLocaleString("en")}.${decimals}`;
}

export const amount = (unit, value) => (unit === "cost_nano_usd" ? usd(value) : number(value));

export function instant(us) {
  return us ? `${new Date(us / 1000).toISOString().slice(0, 19).replace("T", " ")} UTC` : "–";
}

/** How long until then, roughly. */
export function until(us) {
  const minutes = Math.max(0, Math.round((us / 1000 - Date.now()) / 60_000));
  if (minutes < 1) return "in less than a minute";
  if (minutes < 120) return `in ${minutes} min`;
  const hours = Math.round(minutes / 60);
  return hours < 48 ? `in ${hours} h` : `in ${Math.round(hours / 24)} days`;
}

export const day = (date) => date.toISOString().slice(0, 10);
