// Tables that can be sorted by column and searched.

// Columns: { title, isNumber, format }, of the first the cell is the row's head. The rows are arrays of values, null for
// an unknown one, which is sorted last. Returns the table, and a function that shows the rows that contain a text.
function sortableTable(columns, rows, { sorted = null, open = null, hint = "" } = {}) {
  const body = element("tbody");
  let text = "";
  const draw = () => body.replaceChildren(...rows.filter((row) => String(row[0]).toLowerCase().includes(text)).map((row) =>
    element("tr", {}, ...columns.map(({ isNumber, format }, column) => {
      const value = format ? format(row[column], row) : row[column];
      if (column) return element("td", isNumber ? { class: "number" } : {}, value);
      return element("th", { scope: "row" }, open ? button(value, () => open(row), { title: hint }) : value);
    }))));
  const heads = columns.map(({ title, isNumber }, column) =>
    element("th", { scope: "col", class: isNumber ? "number" : "" }, button(title, () => sortBy(column))));
  const sortBy = (column) => {
    const down = heads[column].getAttribute("aria-sort") === "ascending";
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", down ? "descending" : "ascending");
    const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0) * (down ? -1 : 1);
    rows.sort(({ [column]: a }, { [column]: b }) => (a === null) - (b === null) || compare(a, b));
    draw();
  };
  if (sorted === null) draw();
  else sortBy(sorted);
  const table = element("table", { class: "list" }, element("thead", {}, element("tr", {}, ...heads)), body);
  return { table, search: (wanted) => { text = wanted.trim().toLowerCase(); draw(); } };
}

const MIN_SEARCHED = 12;  // rows or classes from which there is a search field

function searchField(label, search) {
  const field = element("input", { type: "search", placeholder: "class", "aria-label": label, autocomplete: "off" });
  field.addEventListener("input", () => search(field.value));
  return field;
}

function drawClasses(open) {
  const score = { isNumber: true, format: (value) => (value === null ? "–" : percent(value)) };
  const columns = [
    { title: "class", of: ([label]) => report.labels[label] },
    report.has_sets && report.classes[0][6] !== null && { title: "threshold", isNumber: true, format: (value) => value.toFixed(3), of: (row) => row[6] },
    { title: "precision", ...score, of: (row) => row[1] }, { title: "recall", ...score, of: (row) => row[2] }, { title: "F1", ...score, of: (row) => row[3] },
    report.has_sets && { title: "AP", ...score, of: (row) => row[5] },
    { title: "clips", isNumber: true, format: (count) => (count ? formatCount(count) : "not tested"), of: (row) => row[4] },
  ].filter(Boolean);
  const { table, search } = sortableTable(columns, report.classes.map((row) => columns.map(({ of }) => of(row))),
  { sorted: columns.findIndex(({ title }) => title === "F1"), open: (row) => open(row[0]), hint: "Show its clips" });
  if (report.classes.length >= MIN_SEARCHED) {
    byId("classes").before(element("div", { class: "tools" }, searchField("Search the table of classes", search)));
  }
  byId("classes").append(table);
  const listed = report.classes.length;
  const sentences = [
    listed < report.class_count && `The ${formatCount(listed)} of ${formatCount(report.class_count)} classes with the lowest F1.`,
    "Precision: correct fraction of the clips classified as the class. Recall: correct fraction of its clips.",
    report.has_sets && "Threshold: probability from which on the class is detected. AP: average precision, over all thresholds.",
    report.untested && `Not tested: ${formatCount(report.untested)} ${report.untested === 1 ? "class" : "classes"} without clips here.`,
    "Select a class to see its clips.",
  ];
  byId("classes-caption").textContent = sentences.filter(Boolean).join(" ");
}

function drawConfusions(open) {
  byId("confusions").hidden = !report.confusions.length;
  const rows = report.confusions.map(([actual, predicted, count, share]) => [report.labels[actual], report.labels[predicted], count, share]);
  const { table } = sortableTable([
    { title: "true" }, { title: "predicted" }, { title: "clips", isNumber: true, format: formatCount },
    { title: "share", isNumber: true, format: (share) => percent(share) },
  ], rows, { open: ([actual, predicted]) => open(actual, predicted), hint: "Show these clips" });
  byId("confusions-table").append(table);
}
