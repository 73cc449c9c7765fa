// Puts the page together: theme, table of classes, gallery, viewer, review.

const THEMES = ["system", "light", "dark"];

function setUpTheme() {
  const button = document.getElementById("theme");
  let theme = "system";
  button.hidden = false;
  button.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    document.getElementById("theme-name").textContent = theme;
  });
}

function showClass(number) {
  clearFilters();
  setFilter("class", String(number));
  applyFilters();
  gallery.scrollIntoView();
}

function sortTable(heading) {
  const table = document.getElementById("class-table");
  const column = [...heading.parentNode.children].indexOf(heading);
  const isFirst = heading.getAttribute("aria-sort") === "none";
  const descends = isFirst ? column > 0 : heading.getAttribute("aria-sort") === "ascending";
  const keyOf = (row) => (column === 0 ? row.children[0].textContent.trim() : Number(row.children[column].dataset.value));
  const rows = [...table.tBodies[0].rows].map((row) => ({ row, key: keyOf(row) }));
  rows.sort((a, b) => (a.key < b.key ? -1 : Number(a.key > b.key)) * (descends ? -1 : 1));
  table.tBodies[0].append(...rows.map(({ row }) => row));
  for (const other of heading.parentNode.children) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", descends ? "descending" : "ascending");
}

function setUpTable() {
  const table = document.getElementById("class-table");
  for (const heading of table.tHead.rows[0].cells) {
    heading.querySelector("button").addEventListener("click", () => sortTable(heading));
  }
  for (const button of document.querySelectorAll("[data-class].link")) {
    button.addEventListener("click", () => showClass(Number(button.dataset.class)));
  }
  for (const button of document.querySelectorAll("[data-search-class]")) {
    const number = page.classes.indexOf(button.dataset.searchClass);
    button.addEventListener("click", () => showClass(number));
  }
}

function setUpReview() {
  document.getElementById("review-download").addEventListener("click", downloadReview);
  document.getElementById("review-clear").addEventListener("click", () => {
    if (!confirm("Forget all decisions made on this page?")) return;
    forgetDecisions();
    showReviewState();
    applyFilters();
  });
  document.getElementById("clear").addEventListener("click", clearFilters);
  showReviewState();
}

// Paper shows every picture of the chosen ones, not only those near the window.
function drawForPrint() {
  for (const details of document.querySelectorAll("details")) details.open = true;
  for (const index of order) if (cells[index].isStale) drawCell(index);
}

setUpTheme();
setUpTable();
buildFilters();
buildViewer();
page.images.forEach((image, index) => cells.push(makeCell(image, index)));
cards.addEventListener("keydown", moveInGrid);
setUpReview();
applyFilters();
showView();
window.addEventListener("beforeprint", drawForPrint);
document.documentElement.dataset.ready = String(Math.round(performance.now()));
