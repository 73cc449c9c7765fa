// The filters, and the grid of cards that fit them; arrow keys move, Enter opens.

const gallery = document.getElementById("gallery");
const cards = document.getElementById("cards");
const filter = { class: "", outcome: "", odd: "", review: "", sort: "doubt", name: "" };
const has = { truth: gallery.dataset.hasTruth === "true", heat: gallery.dataset.hasHeat === "true", masks: gallery.dataset.hasMasks === "true" };
const cells = [];
let order = [];

const OUTCOME_NAMES = { hit: "Hit", part: "Part", "too big": "Too big", miss: "Miss", "false alarm": "False alarm" };
const ODD_NAMES = { any: "Any", missing: "Tag not seen", unexpected: "Seen without tag" };
const SORTS = {
  doubt: ["Most doubtful", (a, b) => b.doubt - a.doubt],
  sure: ["Least doubtful", (a, b) => a.doubt - b.doubt],
  name: ["Name", (a, b) => (a.name < b.name ? -1 : Number(a.name > b.name))],
};

const MOST_CHIPS = 7; // on a card; screen readers are told everything

const chosenClass = () => (filter.class === "" ? null : Number(filter.class));

function fits(image, index) {
  const number = chosenClass();
  const isOwn = ([own]) => number === null || own === number;
  if (number !== null) {
    const concerned = image.classes.includes(number) || [image.truth, image.disagreements, image.tags].some((list) => list.some(isOwn));
    if (!concerned) return false;
  }
  if (filter.outcome && !image.outcomes.some((item) => isOwn(item) && item[1] === filter.outcome)) return false;
  if (filter.odd && !image.disagreements.some((item) => isOwn(item) && (filter.odd === "any" || item[1] === filter.odd))) return false;
  if (filter.review && (decisionsOf(index).length > 0) !== (filter.review === "judged")) return false;
  return image.name.toLowerCase().includes(filter.name.trim().toLowerCase());
}

function applyFilters() {
  const [, compare] = SORTS[filter.sort];
  order = page.images
    .map((image, index) => ({ image, index }))
    .filter(({ image, index }) => fits(image, index))
    .sort((first, second) => compare(first.image, second.image) || first.index - second.index)
    .map(({ index }) => index);
  cards.replaceChildren(...order.map((index) => cells[index].cell));
  cells.forEach((each) => { each.isStale = true; });
  watchCells();
  document.getElementById("nothing").hidden = order.length > 0;
  document.getElementById("count").textContent = `${order.length} of ${page.images.length}`;
  setTabStop(order[0]);
}

function makeCell(image, index) {
  const stage = makeStage(index);
  const chips = element("span", { class: "chips" });
  const card = element(
    "button",
    { type: "button", class: "card", tabindex: "-1", "data-index": index, onclick: () => openViewer(index) },
    element("span", { class: "frame" }, stage),
    element("span", { class: "caption" },
      element("span", { class: "caption-row" },
        element("bdi", { class: "file", title: image.name }, image.name),
        element("span", { class: "doubt" }, `doubt ${image.doubt.toFixed(2)}`)),
      chips),
  );
  return { cell: element("li", { class: "cell" }, card), card, stage, chips, isStale: true };
}

// What the card says of the image, for eyes and for screen readers.
function describe(index) {
  const image = page.images[index];
  const { card, chips } = cells[index];
  const wanted = shownClasses(image, chosenClass());
  const parts = [];
  const words = [image.name, `doubt ${image.doubt.toFixed(2)}`];
  for (const number of wanted) {
    parts.push(element("span", { class: "chip" }, element("b", {}, named(className(number))), ` ${scoreOf(image, number).toFixed(2)}`));
    words.push(`${className(number)} ${scoreOf(image, number).toFixed(2)}`);
  }
  for (const [number, outcome] of image.outcomes) {
    if (outcome === "hit" || (chosenClass() !== null && number !== chosenClass())) continue;
    parts.push(element("span", { class: "chip" }, `${outcome}: `, named(className(number))));
    words.push(`${outcome}: ${className(number)}`);
  }
  for (const [number, kind] of image.disagreements) {
    parts.push(element("span", { class: "chip odd" }, `${ODD_NAMES[kind].toLowerCase()}: `, named(className(number))));
    words.push(`${ODD_NAMES[kind]}: ${className(number)}`);
  }
  if (parts.length > MOST_CHIPS) {
    const left = parts.splice(MOST_CHIPS - 1).length;
    parts.push(element("span", { class: "chip" }, `${left} more`));
  }
  const judged = decisionsOf(index).length;
  if (judged) parts.push(element("span", { class: "chip judged" }, `${judged} judged`));
  chips.replaceChildren(...parts);
  card.setAttribute("aria-label", words.join(", "));
}

function drawCell(index) {
  const each = cells[index];
  each.isStale = false;
  drawStage(each.stage, index, chosenClass(), false);
}

const nearCells = new Set();
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const index = Number(entry.target.firstChild.dataset.index);
    if (!entry.isIntersecting) nearCells.delete(index);
    else {
      nearCells.add(index);
      if (cells[index].isStale) drawCell(index);
    }
  }
}, { rootMargin: "500px" });

function watchCells() {
  watcher.disconnect();
  nearCells.clear();
  for (const index of order) {
    describe(index);
    watcher.observe(cells[index].cell);
  }
}

let isRedrawing = false;

// Draws what is near the window at the next frame, the rest when it comes near.
function redrawCells() {
  cells.forEach((each) => { each.isStale = true; });
  if (isRedrawing) return;
  isRedrawing = true;
  requestAnimationFrame(() => {
    isRedrawing = false;
    nearCells.forEach(drawCell);
  });
}

function setTabStop(index) {
  for (const { card } of cells) card.tabIndex = -1;
  if (index !== undefined) cells[index].card.tabIndex = 0;
}

function cardsPerRow() {
  const tops = order.slice(0, 40).map((index) => cells[index].cell.offsetTop);
  return Math.max(tops.filter((top) => top === tops[0]).length, 1);
}

function moveInGrid(event) {
  const index = Number(event.target.closest(".card")?.dataset.index);
  const place = order.indexOf(index);
  const isRightToLeft = getComputedStyle(cards).direction === "rtl";
  const forward = isRightToLeft ? -1 : 1;
  const steps = { ArrowRight: forward, ArrowLeft: -forward, ArrowDown: cardsPerRow(), ArrowUp: -cardsPerRow(), Home: -place, End: order.length - 1 - place };
  if (place < 0 || !(event.key in steps) || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  const next = order[Math.min(Math.max(place + steps[event.key], 0), order.length - 1)];
  setTabStop(next);
  cells[next].card.focus();
}

function field(label, control) {
  return element("label", { class: "field" }, label, control);
}

function select(name, options, change) {
  const made = element("select", { name }, ...options.map(([value, text]) => element("option", { value }, text)));
  made.addEventListener("change", () => change(made.value));
  return made;
}

function filterField(label, name, options) {
  return field(label, select(name, options, (value) => { filter[name] = value; applyFilters(); }));
}

function buildFilters() {
  const form = document.getElementById("filters");
  const search = element("input", { type: "search", name: "name", placeholder: "File name", "aria-label": "File name" });
  search.addEventListener("input", () => { filter.name = search.value; applyFilters(); });
  const all = ["", "All"];
  const isOdd = page.images.some((image) => image.disagreements.length);
  form.append(
    ...[
      filterField("Class", "class", [all, ...page.classes.map((name, number) => [String(number), name])]),
      has.truth ? filterField("Outcome", "outcome", [all, ...Object.entries(OUTCOME_NAMES)]) : null,
      isOdd ? filterField("At odds with tags", "odd", [all, ...Object.entries(ODD_NAMES)]) : null,
      filterField("Review", "review", [all, ["open", "Open"], ["judged", "Judged"]]),
      filterField("Sort", "sort", Object.entries(SORTS).map(([key, [text]]) => [key, text])),
      field("Search", search),
      element("p", { class: "count", id: "count", role: "status" }),
      layerControls(),
    ].filter(Boolean),
  );
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
}

function setFilter(name, value) {
  filter[name] = value;
  document.getElementById("filters").elements[name].value = value;
}

function clearFilters() {
  for (const name of Object.keys(filter)) {
    if (name in document.getElementById("filters").elements) setFilter(name, name === "sort" ? filter.sort : "");
  }
  applyFilters();
}

// The same layers above the grid and in the viewer: each control shows the one state.
function layerControls() {
  const tick = (name, text) => {
    const box = element("input", { type: "checkbox", "data-view": name });
    box.addEventListener("change", () => changeView(name, box.checked));
    return element("label", {}, box, text);
  };
  const slide = (name, text, most) => {
    const range = element("input", { type: "range", min: "0", max: most, step: "0.01", "data-view": name });
    range.addEventListener("input", () => changeView(name, Number(range.value)));
    return element("label", { class: "slide" }, text, range, element("output", { "data-shows": name }));
  };
  const reset = () => changeView("threshold", null);
  return element("fieldset", { class: "layers", "aria-label": "Layers" }, ...[
    tick("boxes", "Boxes"),
    tick("points", "Points"),
    has.masks ? tick("masks", "Masks") : null,
    has.truth ? tick("truth", "Truth") : null,
    has.heat ? slide("heat", "Heat", "1") : null,
    has.heat ? slide("threshold", "Threshold", "0.99") : null,
    has.heat ? element("button", { type: "button", class: "quiet", "data-reset": true, onclick: reset }, "Reset") : null,
  ].filter(Boolean));
}

function changeView(name, value) {
  view[name] = value;
  showView();
  if (name === "heat") return; // a style of all stages; nothing is drawn anew
  redrawCells();
  redrawViewer();
}

// The threshold that a slider rests at while the boxes are the predicted ones.
function restingThreshold() {
  const number = viewer.index === null ? chosenClass() : viewer.number;
  return (number === null ? page.thresholds.find((each) => each !== null) : page.thresholds[number]) ?? 0.3;
}

function showView() {
  document.documentElement.style.setProperty("--heat", String(view.heat));
  const isLive = view.threshold !== null;
  for (const input of document.querySelectorAll("[data-view]")) {
    const value = view[input.dataset.view];
    if (input.type === "checkbox") input.checked = value;
    else input.value = String(value ?? restingThreshold());
  }
  for (const output of document.querySelectorAll("[data-shows]")) {
    const value = view[output.dataset.shows];
    output.textContent = value === null ? "as predicted" : value.toFixed(2);
  }
  for (const button of document.querySelectorAll("[data-reset]")) button.disabled = !isLive;
}
