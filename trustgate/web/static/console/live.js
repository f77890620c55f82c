// Numbers and requests as they come. Without it the page shows those of the moment at which it was loaded.
const log = document.getElementById("live-log");
const filter = document.getElementById("field-live");
const pause = document.getElementById("live-pause");
const state = document.getElementById("live-state");
const KEPT = 200;
let source = null;

function matches(text) {
  return !filter || text.toLowerCase().includes(filter.value.trim().toLowerCase());
}

function cell(name, text, className) {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function add(request) {
  const row = document.createElement("tr");
  const id = document.createElement("th");
  const link = document.createElement("a");
  link.href = `/console/receipts/${encodeURIComponent(request.id)}`;
  link.textContent = request.time;
  id.scope = "row";
  id.className = "whole";
  id.append(link);
  row.append(id, cell("td", request.tenant), cell("td", request.endpoint), cell("td", request.model),
    cell("td", request.status, "n"), cell("td", request.ended), cell("td", request.tokens, "n"),
    cell("td", request.cost, "n"), cell("td", request.ms, "n"));
  row.dataset.text = row.textContent;
  row.hidden = !matches(row.dataset.text);
  log.prepend(row);
}

function show(event) {
  const data = JSON.parse(event.data);
  for (const [id, text] of Object.entries(data.numbers)) {
    const place = document.getElementById(id);
    if (place && place.textContent !== text) place.textContent = text;
  }
  if (log) {
    const known = new Set(Array.from(log.rows, (row) => row.dataset.id));
    for (const request of data.requests) {
      if (known.has(request.id)) continue;
      add(request);
      log.rows[0].dataset.id = request.id;
    }
    while (log.rows.length > KEPT) log.rows[log.rows.length - 1].remove();
  }
}

function begin() {
  source = new EventSource("/console/live");
  source.addEventListener("message", show);
  source.addEventListener("open", () => { if (state) state.textContent = "Live"; });
  source.addEventListener("error", () => { if (state) state.textContent = "Not connected"; });
  source.addEventListener("end", () => { source.close(); if (state) state.textContent = "Ended: sign in again"; });
}

if (filter) {
  filter.addEventListener("input", () => {
    for (const row of log.rows) row.hidden = !matches(row.dataset.text ?? row.textContent);
  });
}
if (pause) {
  pause.hidden = false;
  pause.addEventListener("click", () => {
    const paused = pause.getAttribute("aria-pressed") === "true";
    pause.setAttribute("aria-pressed", String(!paused));
    pause.textContent = paused ? "Pause" : "Go on";
    if (paused) { begin(); } else { source.close(); if (state) state.textContent = "Paused"; }
  });
}
// A page that is not looked at asks for nothing.
document.addEventListener("visibilitychange", () => {
  if (pause?.getAttribute("aria-pressed") === "true") return;
  if (document.hidden) source.close();
  else begin();
});
begin();
