// Coarse maps in, boxes out: the same bilinear upsampling, threshold and 8-connected parts as
// weakloc's own localiser, so that the slider shows what another threshold would have given.

const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

// For each of `count` targets along a line: the cell before it, and the share of the one after.
function lineWeights(count, cells) {
  const before = new Int32Array(count);
  const share = new Float64Array(count);
  for (let target = 0; target < count; target++) {
    let place = ((target + 0.5) * cells) / count - 0.5;
    place = Math.min(Math.max(place, 0), cells - 1);
    const near = Math.round(place);
    if (Math.abs(place - near) < 1e-9) place = near;
    before[target] = Math.min(Math.floor(place), Math.max(cells - 2, 0));
    share[target] = place - before[target];
  }
  return { before, share };
}

// Cells of 0 to 255 -> shares of 0 to 1 on a finer grid, between cell centres, ends repeated.
function upsample(heat, columns, rows) {
  const across = lineWeights(columns, heat.columns);
  const down = lineWeights(rows, heat.rows);
  const widened = new Float32Array(heat.rows * columns);
  for (let row = 0; row < heat.rows; row++) {
    for (let column = 0; column < columns; column++) {
      const start = row * heat.columns + across.before[column];
      const share = across.share[column];
      const low = heat.cells[start];
      const high = share > 0 ? heat.cells[start + 1] : 0;
      widened[row * columns + column] = (low * (1 - share) + high * share) / 255;
    }
  }
  const values = new Float32Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    const share = down.share[row];
    const start = down.before[row] * columns;
    for (let column = 0; column < columns; column++) {
      const low = widened[start + column];
      const high = share > 0 ? widened[start + columns + column] : 0;
      values[row * columns + column] = low * (1 - share) + high * share;
    }
  }
  return { values, columns, rows };
}

// The 8-connected parts above the threshold as boxes in cells, each with its number of cells.
function partsAbove(map, threshold) {
  const { values, columns, rows } = map;
  const level = Math.fround(threshold);
  const seen = new Uint8Array(values.length);
  const waiting = new Int32Array(values.length);
  const parts = [];
  for (let start = 0; start < values.length; start++) {
    if (seen[start] || !(values[start] > level)) continue;
    const part = { left: columns, top: rows, right: 0, bottom: 0, cells: 0 };
    let count = 0;
    waiting[count++] = start;
    seen[start] = 1;
    while (count > 0) {
      const place = waiting[--count];
      const row = Math.floor(place / columns);
      const column = place - row * columns;
      part.cells++;
      part.left = Math.min(part.left, column);
      part.right = Math.max(part.right, column + 1);
      part.top = Math.min(part.top, row);
      part.bottom = Math.max(part.bottom, row + 1);
      for (let y = Math.max(row - 1, 0); y <= Math.min(row + 1, rows - 1); y++) {
        for (let x = Math.max(column - 1, 0); x <= Math.min(column + 1, columns - 1); x++) {
          const next = y * columns + x;
          if (!seen[next] && values[next] > level) {
            seen[next] = 1;
            waiting[count++] = next;
          }
        }
      }
    }
    parts.push(part);
  }
  return parts;
}

function meanInside(map, part) {
  let total = 0;
  for (let row = part.top; row < part.bottom; row++) {
    for (let column = part.left; column < part.right; column++) {
      total += map.values[row * map.columns + column];
    }
  }
  return total / ((part.right - part.left) * (part.bottom - part.top));
}

// Boxes of an image of (width, height), best first: [left, top, right, bottom, score].
function boxesAbove(heat, image, threshold, classScore, minArea) {
  const [columns, rows] = image.grid;
  const map = upsample(heat, columns, rows);
  const scaleX = image.width / columns;
  const scaleY = image.height / rows;
  return partsAbove(map, threshold)
    .filter((part) => part.cells / (columns * rows) >= minArea)
    .map((part) => [
      part.left * scaleX,
      part.top * scaleY,
      part.right * scaleX,
      part.bottom * scaleY,
      classScore * meanInside(map, part),
    ])
    .sort((first, second) => second[4] - first[4]);
}
