
"use strict";
const form = document.getElementById("filters");
const words = document.getElementById("words");
const group = document.getElementById("group");
const sections = [...document.querySelectorAll("section")];
const rows = [...document.querySelectorAll("tr[data-clause]")];
const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));

function checked(name) {
  return new Set([...form.querySelectorAll(`input[name=${name}]:checked`)].map((box) => box.value));
}

function filter() {
  const statuses = checked("status");
  const providers = checked("provider");
  const all = form.querySelectorAll("input[name=status]").length === statuses.size;
  const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const cell of document.querySelectorAll("[data-provider]")) {
    cell.hidden = !providers.has(cell.dataset.provider);
  }
  let shown = 0;
  for (const section of sections) {
    let here = 0;
    for (const row of section.querySelectorAll("tr[data-clause]")) {
      const cells = [...row.cells].filter((cell) => providers.has(cell.dataset.provider));
      const fits = cells.some((cell) => cell.dataset.statuses.split(" ").some((status) => statuses.has(status)));
      const text = texts.get(row);
      row.hidden = !((all || fits) && wanted.every((word) => text.includes(word)));
      here += row.hidden ? 0 : 1;
    }
    section.hidden = here === 0 || (group.value !== "" && section.dataset.group !== group.value);
    shown += section.hidden ? 0 : here;
  }
  document.getElementById("shown").value = `${shown} of ${rows.length} clauses`;
  document.getElementById("nothing").hidden = shown !== 0;
}

form.addEventListener("input", filter);
form.addEventListener("change", filter);
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => setTimeout(filter));
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !event.ctrlKey && !event.metaKey && !event.altKey && document.activeElement !== words) {
    event.preventDefault();
    words.focus();
  }
});
let opened = [];
addEventListener("beforeprint", () => {
  opened = rows.filter((row) => !row.hidden && row.querySelector("details li:not(:first-child), details li[class]"))
    .map((row) => row.querySelector("details")).filter((details) => !details.open);
  opened.forEach((details) => { details.open = true; });
});
addEventListener("afterprint", () => opened.forEach((details) => { details.open = false; }));
filter();
