// How work stands that takes long; the page is loaded again when it is done.
const stage = document.getElementById("work-stage");

async function look() {
  try {
    const response = await fetch(stage.dataset.work, { cache: "no-store" });
    const state = await response.json();
    if (state.done) {
      location.reload();
      return;
    }
    if (stage.textContent !== state.stage) stage.textContent = state.stage;
  } catch {
    stage.textContent = "The gateway does not answer, or you are signed out. Load this page again.";
  }
  setTimeout(look, 700);
}
look();
