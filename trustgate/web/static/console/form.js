// Keeps the line of the command line in step with the form.
const form = document.getElementById("action");
const line = document.getElementById("action-line");

function quoted(text) {
  return /^[\w@%+=:,.\/-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`;
}

function label(field) {
  return (field.labels?.[0]?.textContent ?? field.name).toUpperCase().replaceAll(" ", "-");
}

function write() {
  const fields = Array.from(form.elements).filter((field) => field.dataset.flag !== undefined);
  const parts = ["trustgate", ...form.dataset.words.split(" ")];
  for (const field of fields.filter((each) => !each.dataset.flag)) {
    parts.push(field.value.trim() ? quoted(field.value.trim()) : label(field));
  }
  for (const field of fields.filter((each) => each.dataset.flag)) {
    if (field.type === "checkbox") {
      if (field.checked) parts.push(field.dataset.flag);
    } else if (field.value.trim()) {
      parts.push(field.dataset.flag, quoted(field.value.trim()));
    }
  }
  line.textContent = parts.join(" ");
}

form.addEventListener("input", write);
