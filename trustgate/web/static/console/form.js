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
  const args = fields.filter((each) => !each.dataset.flag && (each.required || each.value.trim()))
    .map((field) => (field.value.trim() ? quoted(field.value.trim()) : label(field)));
  const options = [];
  for (const field of fields.filter((each) => each.dataset.flag)) {
    if (field.type === "checkbox") {
      if (field.checked) options.push(field.dataset.flag);
    } else if (field.type === "textarea") {
      for (const each of field.value.split("\n").map((entry) => entry.trim()).filter(Boolean)) {
        options.push(field.dataset.flag, quoted(each));
      }
    } else if (field.value.trim()) {
      options.push(field.dataset.flag, quoted(field.value.trim()));
    }
  }
  // What begins with a dash is an argument after "--" alone.
  const parts = args.some((each) => each.startsWith("-")) ? [...options, "--", ...args] : [...args, ...options];
  line.textContent = ["trustgate", form.dataset.words, ...parts].join(" ");
}

form.addEventListener("input", write);
