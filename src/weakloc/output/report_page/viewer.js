// One picture large, with its classes, layers and verdicts.

const dialog = document.getElementById("viewer");
const viewer = { index: null, number: null, stage: null, panel: {} };

function buildViewer() {
  const panel = viewer.panel;
  panel.name = element("h2", { id: "viewer-name" });
  panel.place = element("span", { class: "place", role: "status" });
  panel.holder = element("div", { class: "viewer-stage" });
  panel.facts = element("p", { class: "hint" });
  panel.classes = element("div", { class: "classes", role: "group", "aria-label": "Class shown" });
  panel.verdicts = element("div", { class: "verdicts", role: "group", "aria-label": "Verdict" });
  panel.hint = element("p", { class: "hint", role: "status" });
  panel.previous = element("button", { type: "button", class: "quiet", "aria-label": "Previous picture", onclick: () => step(-1) }, "\u2190");
  panel.next = element("button", { type: "button", class: "quiet", "aria-label": "Next picture", onclick: () => step(1) }, "\u2192");
  const keys = [["\u2190 \u2192", "picture"], ["\u2191 \u2193", "class"], ["A W N R", "verdict"], ["B P M T", "layers"], ["Esc", "close"]];
  dialog.append(
    element("div", { class: "viewer" },
      element("header", { class: "viewer-head" }, panel.name, panel.place, panel.previous, panel.next,
        element("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Close")),
      panel.holder,
      element("div", { class: "panel" },
        element("div", {}, element("h3", {}, "Class"), panel.classes, panel.facts),
        element("div", {}, element("h3", {}, "Layers"), layerControls()),
        element("div", {}, element("h3", {}, "Verdict"), panel.verdicts, panel.hint),
        element("p", { class: "keys" }, ...keys.map(([key, text]) => element("span", {}, element("kbd", {}, key), ` ${text}`))))),
  );
  dialog.addEventListener("keydown", viewerKeys);
  dialog.addEventListener("close", closeViewer);
}

function openViewer(index) {
  viewer.index = index;
  const image = page.images[index];
  const known = listedClasses(image);
  const wanted = chosenClass();
  viewer.number = wanted !== null && known.includes(wanted) ? wanted : (known[0] ?? null);
  if (!dialog.open) dialog.showModal();
  showViewer();
}

function closeViewer() {
  const index = viewer.index;
  viewer.index = null;
  showView();
  if (!order.includes(index)) return;
  setTabStop(index);
  cells[index].card.focus();
}

// Every class that something is known of, likeliest first.
function listedClasses(image) {
  const rest = [...image.tags, ...image.truth, ...image.disagreements].map(([number]) => number);
  return [...new Set([...image.classes, ...image.scores.map(([number]) => number), ...rest])];
}

function step(steps) {
  const place = order.indexOf(viewer.index);
  const next = order[place + steps];
  if (next !== undefined) openViewer(next);
}

function stepClass(steps) {
  const listed = [null, ...listedClasses(page.images[viewer.index])];
  const place = (listed.indexOf(viewer.number) + steps + listed.length) % listed.length;
  chooseClass(listed[place]);
}

function chooseClass(number) {
  viewer.number = number;
  showViewer();
}

function showViewer() {
  const image = page.images[viewer.index];
  const { name, place, holder, facts, previous, next } = viewer.panel;
  const position = order.indexOf(viewer.index);
  name.replaceChildren(named(image.name));
  name.title = image.name;
  place.textContent = `${position + 1} of ${order.length}`;
  previous.disabled = position <= 0;
  next.disabled = position >= order.length - 1;
  facts.textContent = `${image.width} \u00d7 ${image.height} pixels, doubt ${image.doubt.toFixed(2)}`;
  viewer.stage = makeStage(viewer.index);
  holder.replaceChildren(viewer.stage);
  showClasses(image);
  showVerdicts(image);
  showView();
  redrawViewer();
  const focused = document.activeElement; // a button may be gone, or off at the last picture
  if (!dialog.contains(focused) || focused.disabled) dialog.focus();
}

function redrawViewer() {
  if (viewer.index !== null) drawStage(viewer.stage, viewer.index, viewer.number, true);
}

function showClasses(image) {
  const buttons = [null, ...listedClasses(image)].map((number) => {
    const isChosen = number === viewer.number;
    const text = number === null ? "All classes" : named(className(number));
    const said = number === null ? "" : whatIsSaid(image, number);
    return element("button",
      { type: "button", class: "class-button", "aria-pressed": String(isChosen), "data-number": String(number), onclick: () => chooseClass(number) },
      element("span", {}, text),
      number === null ? null : element("span", { class: "score" }, scoreOf(image, number).toFixed(2)),
      said ? element("span", { class: "said" }, said) : null);
  });
  const hadFocus = viewer.panel.classes.contains(document.activeElement);
  viewer.panel.classes.replaceChildren(...buttons);
  if (hadFocus) viewer.panel.classes.querySelector('[aria-pressed="true"]').focus();
}

function whatIsSaid(image, number) {
  const own = (list) => list.filter(([each]) => each === number);
  const words = own(image.tags).map(([, state]) => (state === 1 ? "tagged" : "tagged absent"));
  words.push(...own(image.outcomes).map(([, outcome]) => outcome));
  words.push(...own(image.disagreements).map(([, kind]) => ODD_NAMES[kind].toLowerCase()));
  const decision = decisionOn(viewer.index, number);
  if (decision) words.push(VERDICTS[decision.verdict].toLowerCase());
  return words.join(" \u00b7 ");
}

function showVerdicts(image) {
  const { verdicts, hint } = viewer.panel;
  const number = viewer.number;
  if (number === null) {
    verdicts.replaceChildren();
    hint.textContent = "Choose one class to judge it.";
    return;
  }
  const decision = decisionOn(viewer.index, number);
  const button = (verdict, key) => element("button",
    { type: "button", class: "action", "data-verdict": verdict, "aria-pressed": String(decision?.verdict === verdict), onclick: () => judge(verdict) },
    VERDICTS[verdict].replace("Accepted", "Accept"), element("kbd", { "aria-hidden": "true" }, key));
  const others = page.classes.map((name, other) => [String(other), name]).filter(([other]) => Number(other) !== number);
  const relabel = select("relabel", [["", "choose a class"], ...others], (value) => judge("relabelled", value === "" ? decision?.to ?? null : Number(value)));
  relabel.value = decision?.to === null || decision?.to === undefined ? "" : String(decision.to);
  const focused = verdicts.contains(document.activeElement) ? document.activeElement.dataset.verdict : null;
  verdicts.replaceChildren(button("accepted", "A"), button("misplaced", "W"), button("absent", "N"),
    element("label", { class: "relabel" }, "It is", relabel));
  if (focused) verdicts.querySelector(`[data-verdict="${focused}"]`).focus();
  hint.textContent = decision ? verdictHint(decision) : "Accept keeps the boxes as they are drawn now.";
}

function verdictHint({ verdict, to, boxes }) {
  const kept = `${boxes.length} ${boxes.length === 1 ? "box" : "boxes"}`;
  const words = { accepted: `Tag confirmed, ${kept} kept.`, misplaced: "Tag confirmed, no box kept.", absent: "Tagged as not there." };
  return words[verdict] ?? `Relabelled as ${className(to)}, ${kept} kept.`;
}

function judge(verdict, to) {
  if (viewer.number === null || (verdict === "relabelled" && to === null)) return;
  decide(viewer.index, viewer.number, verdict, to);
  showReviewState();
  describe(viewer.index);
  const image = page.images[viewer.index];
  showClasses(image);
  showVerdicts(image);
}

function viewerKeys(event) {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const tag = event.target.tagName;
  if (tag === "SELECT" || (tag === "INPUT" && event.target.type === "range")) return;
  const layer = (name, isThere = true) => () => isThere && changeView(name, !view[name]);
  const actions = {
    ArrowLeft: () => step(-1), ArrowRight: () => step(1), ArrowUp: () => stepClass(-1), ArrowDown: () => stepClass(1),
    a: () => judge("accepted"), w: () => judge("misplaced"), n: () => judge("absent"),
    r: () => viewer.panel.verdicts.querySelector("select")?.focus(),
    b: layer("boxes"), p: layer("points"), m: layer("masks", has.masks), t: layer("truth", has.truth),
  };
  const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!action) return;
  event.preventDefault();
  action();
}
