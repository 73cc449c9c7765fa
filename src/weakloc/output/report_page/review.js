// What a person decides about a class in an image, kept in this browser and downloaded as
// weakloc.review/1, which `weakloc data` reads back as tags and drawn boxes.

const STORE = `weakloc-review-${page.key}`;
const VERDICTS = { accepted: "Accepted", misplaced: "Wrong place", absent: "Not there", relabelled: "Relabelled" };
let decisions = new Map(storedDecisions());

function storedDecisions() {
  try {
    return JSON.parse(localStorage.getItem(STORE) || "[]");
  } catch {
    return []; // a browser may keep nothing for files
  }
}

function keepDecisions() {
  try {
    localStorage.setItem(STORE, JSON.stringify([...decisions]));
  } catch {
    // The decisions last as long as the page is open.
  }
}

const decisionsOf = (index) => (decisions.get(index) || []);
const decisionOn = (index, number) => decisionsOf(index).find((each) => each.number === number) || null;

// Decides, or takes the decision back where it is the same one again.
function decide(index, number, verdict, to) {
  const old = decisionOn(index, number);
  const others = decisionsOf(index).filter((each) => each.number !== number);
  const isSame = old !== null && old.verdict === verdict && (old.to ?? null) === (to ?? null);
  if (!isSame) {
    const keeps = verdict === "accepted" || verdict === "relabelled";
    const boxes = keeps ? boxesOf(index, number).map((box) => box.slice(1, 5)) : [];
    others.push({ number, verdict, to: to ?? null, boxes, threshold: view.threshold });
  }
  if (others.length) decisions.set(index, others);
  else decisions.delete(index);
  keepDecisions();
}

function forgetDecisions() {
  decisions = new Map();
  keepDecisions();
}

function reviewDocument() {
  const images = [...decisions].sort(([first], [second]) => first - second).map(([index, list]) => {
    const { name, width, height } = page.images[index];
    return { image: name, width, height, decisions: list.map(plainDecision) };
  });
  return { schema: "weakloc.review/1", class_names: page.classes, images };
}

function plainDecision({ number, verdict, to, boxes, threshold }) {
  const plain = { class: className(number), verdict, boxes, threshold };
  return to === null ? plain : { ...plain, to: className(to) };
}

function downloadReview() {
  const text = `${JSON.stringify(reviewDocument(), null, 1)}\n`;
  const address = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  const link = element("a", { href: address, download: "weakloc-review.json" });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

function showReviewState() {
  let count = 0;
  for (const list of decisions.values()) count += list.length;
  document.getElementById("reviewbar").hidden = count === 0;
  document.getElementById("review-status").textContent =
    count === 0 ? "" : `${count} ${count === 1 ? "decision" : "decisions"} on ${decisions.size} ${decisions.size === 1 ? "picture" : "pictures"}`;
}
