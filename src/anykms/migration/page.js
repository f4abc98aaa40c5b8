
"use strict";
const form = document.getElementById("filter");
if (form !== null) {
  const words = document.getElementById("words");
  const reason = document.getElementById("reason");
  const rows = [...document.querySelectorAll("#entries tbody tr")];
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const filter = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const text = texts.get(row);
      const fits = reason.value === "" || row.dataset.reason === reason.value;
      row.hidden = !(fits && wanted.every((word) => text.includes(word)));
    }
    const shown = rows.filter((row) => !row.hidden).length;
    document.getElementById("shown").value = `${shown} of ${rows.length}`;
    document.getElementById("nothing").hidden = shown !== 0;
  };
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
  filter();
}
const closed = [];
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not([open])")) {
    closed.push(details);
    details.open = true;
  }
});
addEventListener("afterprint", () => closed.splice(0).forEach((details) => { details.open = false; }));
