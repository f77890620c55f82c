// The tenant's months: to download, and checked in this page.

import { ask, button, download, fill, h, message, send, table } from "./common.js";
import { check, checkList, core, sentence } from "./checks.js";

export async function show(place, { account }) {
  const list = h("div");
  const verdict = h("div", { id: "verdict", "aria-live": "polite" });
  place.replaceChildren(
    h("p", null, "A statement has all receipts of a month and the proofs of its sums: anybody can add it up again."),
    list,
    verdict,
  );
  const get = async (month, format) => new Uint8Array(await (await send(`/v1/statements/${month}?format=${format}`)).arrayBuffer());
  const save = (month, format, type) => () =>
    fill(verdict, async () => {
      download(await get(month, format), `statement-${month}.${format}`, type);
      return message("good", `The statement of ${month} is saved as statement-${month}.${format}.`);
    });
  const verify = (month) => () =>
    fill(verdict, async () => {
      const found = await check(await get(month, "json"), account.log.vkey, { kind: "statement" });
      const { statementSummary } = await core();
      const rows = found.ok ? statementSummary(found.found.document).map(([term, value]) => [h("dt", null, term), h("dd", null, value)]) : [];
      return [
        h("h2", null, `The statement of ${month}`),
        message(...sentence(found, "statement")),
        h("dl", { class: "facts" }, rows),
        checkList(found),
      ];
    });
  await fill(list, async () => {
    const { data } = await ask("/v1/statements");
    return table(
      "Statements, the newest first",
      [["Month (UTC)", "whole"], ["State", "whole"], "Check", "Download"],
      data.map(({ id, is_final: isFinal }) => [
        id,
        isFinal ? "final" : "still running",
        h("button", { type: "button", class: "small", "aria-label": `Verify in this page: ${id}`, onclick: verify(id) }, "Verify in this page"),
        h("div", { class: "buttons" }, [
          ["html", "text/html"], ["csv", "text/csv"], ["json", "application/json"],
        ].map(([format, type]) => h("button", {
          type: "button", class: "small", "aria-label": `${format.toUpperCase()} of ${id}`, onclick: save(id, format, type),
        }, format.toUpperCase()))),
      ]),
      "There is no month with a receipt yet.",
    );
  });
}
