"use strict";
for (const table of document.querySelectorAll("table.sortable")) new Tablesort(table);

// The grid and the answers of one benchmark are filtered together; without this script both are shown whole.
for (const section of document.querySelectorAll(".problems")) {
  const tools = section.querySelector(".tools");
  const [search, kind, shown] = tools.children;
  const rows = [...section.querySelectorAll("tr[data-problem]")];
  const answers = new Map([...section.querySelectorAll(".problem")].map((node) => [node.dataset.problem, node]));
  const kinds = (row) => row.dataset.kind.split(" ");
  let texts;
  const text = (row) => {
    texts ||= new Map(rows.map((own) => [own, (own.textContent + " " + answers.get(own.dataset.problem).textContent).toLowerCase()]));
    return texts.get(row);
  };
  const update = () => {
    const wanted = search.value.trim().toLowerCase();
    let count = 0;
    for (const row of rows) {
      const visible = (!kind.value || kinds(row).includes(kind.value)) && (!wanted || text(row).includes(wanted));
      row.hidden = answers.get(row.dataset.problem).hidden = !visible;
      count += visible;
    }
    shown.textContent = `${count} of ${rows.length} problems`;
  };
  search.addEventListener("input", update);
  kind.addEventListener("change", update);
  tools.hidden = false;
  update();
}

const follow = () => {
  const node = document.getElementById(location.hash.slice(1));
  if (node instanceof HTMLDetailsElement) {
    node.hidden = false;
    node.open = true;
    node.scrollIntoView();
    node.querySelector("summary").focus({preventScroll: true});
  }
};
addEventListener("hashchange", follow);
follow();
