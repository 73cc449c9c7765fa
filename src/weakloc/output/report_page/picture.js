// One image of the index in, its drawn layers out: picture, heat, masks, boxes, points, truth.
// Names only ever become text nodes; nothing here writes markup.

const page = JSON.parse(document.getElementById("index").textContent);
const palette = bytesOf(page.palette);
const SVG = "http://www.w3.org/2000/svg";
const view = { boxes: true, points: true, masks: true, truth: false, heat: 0.45, threshold: null };

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function drawn(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

const className = (number) => page.classes[number];
const named = (text) => element("bdi", {}, text);
const blocks = new Map();

// The heavy part of an image, read when it is first shown.
function blockOf(index) {
  if (!blocks.has(index)) {
    const block = JSON.parse(document.getElementById(`block-${index}`).textContent);
    const heat = new Map();
    for (const [number, columns, rows, cells] of block.heat) {
      heat.set(number, { columns, rows, cells: bytesOf(cells) });
    }
    blocks.set(index, { jpeg: block.jpeg, heat, masks: block.masks });
  }
  return blocks.get(index);
}

const scoreOf = (image, number) => (image.scores.find(([own]) => own === number) || [0, 0])[1];

// The classes that are drawn where no single one is asked for.
const shownClasses = (image, number) => (number === null ? image.classes : [number]);

// [class, left, top, right, bottom, score], as predicted or as the live threshold gives them.
function boxesOf(index, number) {
  const image = page.images[index];
  const wanted = new Set(shownClasses(image, number));
  const predicted = image.boxes.filter(([own]) => wanted.has(own));
  if (view.threshold === null) return predicted;
  const { heat } = blockOf(index);
  const live = [];
  for (const own of wanted) {
    if (!heat.has(own)) {
      live.push(...predicted.filter(([other]) => other === own));
      continue;
    }
    const score = scoreOf(image, own);
    const found = boxesAbove(heat.get(own), image, view.threshold, score, page.minArea);
    live.push(...found.map((box) => [own, ...box]));
  }
  return live;
}

function makeStage(index) {
  const image = page.images[index];
  const stage = element("span", { class: `stage ${image.width * 3 >= image.height * 4 ? "wide" : "tall"}` });
  stage.style.setProperty("--ratio", String(image.width / image.height));
  return stage;
}

// Fills a stage anew. `number` is one class, or null for all; `labels` also writes names.
function drawStage(stage, index, number, labels) {
  const image = page.images[index];
  const block = blockOf(index);
  const layers = [];
  if (block.jpeg === null) {
    layers.push(element("span", { class: "unreadable" }, "This picture could not be opened"));
  } else {
    layers.push(element("img", { alt: "", src: `data:image/jpeg;base64,${block.jpeg}`, decoding: "async" }));
  }
  const classes = shownClasses(image, number);
  const heat = heatCanvas(classes.map((own) => block.heat.get(own)).filter(Boolean));
  if (heat) layers.push(heat);
  if (view.masks) {
    for (const mask of block.masks) if (classes.includes(mask[0])) layers.push(maskCanvas(mask));
  }
  const boxes = view.boxes ? boxesOf(index, number) : [];
  layers.push(marks(image, boxes, classes, number));
  if (labels) layers.push(...boxes.map((box) => labelOf(image, box)));
  stage.replaceChildren(...layers);
}

// The greatest heat of several maps, one pixel a cell; the browser smooths it.
function heatCanvas(maps) {
  if (maps.length === 0) return null;
  const { columns, rows } = maps[0];
  const canvas = element("canvas", { class: "heat", width: columns, height: rows });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(columns, rows);
  for (let place = 0; place < columns * rows; place++) {
    let hottest = 0;
    for (const map of maps) hottest = Math.max(hottest, map.cells[place] || 0);
    pixels.data.set(palette.subarray(hottest * 3, hottest * 3 + 3), place * 4);
    pixels.data[place * 4 + 3] = 40 + Math.round((215 * hottest) / 255);
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

function maskCanvas([number, columns, rows, runs]) {
  const canvas = element("canvas", { class: "mask", width: columns, height: rows, "data-class": number });
  const context = canvas.getContext("2d");
  const inside = new Uint8Array(columns * rows);
  let place = 0;
  runs.split(" ").forEach((run, turn) => {
    const end = place + Number(run);
    if (turn % 2 === 1) inside.fill(1, place, end);
    place = end;
  });
  const pixels = context.createImageData(columns, rows);
  for (place = 0; place < inside.length; place++) {
    if (!inside[place]) continue;
    const column = place % columns;
    const isEdge =
      column === 0 || column === columns - 1 || !inside[place - 1] || !inside[place + 1] ||
      !inside[place - columns] || !inside[place + columns];
    pixels.data.set([255, 138, 43, isEdge ? 255 : 90], place * 4);
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

function marks(image, boxes, classes, number) {
  const svg = drawn("svg", { viewBox: `0 0 ${image.width} ${image.height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  if (view.truth) {
    for (const [own, left, top, right, bottom, optional] of image.truth) {
      if (number !== null && own !== number) continue;
      const place = { x: left, y: top, width: right - left, height: bottom - top };
      svg.append(
        drawn("rect", { class: "true-casing", ...place }),
        drawn("rect", { class: optional ? "true-box optional" : "true-box", "data-class": own, ...place }),
      );
    }
  }
  for (const [own, left, top, right, bottom] of boxes) {
    const place = { x: left, y: top, width: Math.max(right - left, 0), height: Math.max(bottom - top, 0) };
    svg.append(
      drawn("rect", { class: "casing", ...place }),
      drawn("rect", { class: "box", "data-class": own, ...place }),
    );
  }
  if (view.points) {
    for (const [own, x, y] of image.points) {
      if (!classes.includes(own)) continue;
      const place = `M${x} ${y}h0.001`;
      svg.append(
        drawn("path", { class: "point-casing", d: place }),
        drawn("path", { class: "point", d: place, "data-class": own }),
        drawn("path", { class: "point-core", d: place }),
      );
    }
  }
  return svg;
}

function labelOf(image, [number, left, top, , , score]) {
  const label = element("span", { class: "label" }, named(className(number)), ` ${score.toFixed(2)}`);
  label.style.left = `${(100 * Math.max(left, 0)) / image.width}%`;
  label.style.top = `${(100 * Math.max(top, 0)) / image.height}%`;
  return label;
}
