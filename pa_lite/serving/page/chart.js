// The study's curves under the sliders: lines with their intervals, and a cursor for each column's lam.
const SVG = "http://www.w3.org/2000/svg";
const LEFT = 12, RIGHT = 988, TOP = 12, BOTTOM = 150;  // as wide as the sliders' tracks

const svg = (name, attributes, text) => {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
};

const xOf = (lam) => LEFT + (RIGHT - LEFT) * lam;
const percent = (share) => `${(100 * share).toFixed(0)} %`;

// Return a curve's value (or one of its bounds) at any lam, between measured lams on the line that joins them.
function valueAt(study, values, lam) {
  const lams = study.lams;
  if (lam <= lams[0]) return values[0];
  for (let i = 1; i < lams.length; i += 1) {
    if (lam <= lams[i]) {
      const share = (lam - lams[i - 1]) / (lams[i] - lams[i - 1]);
      return values[i - 1] + share * (values[i] - values[i - 1]);
    }
  }
  return values[values.length - 1];
}

function drawChart(chart, study) {
  const tops = study.curves.flatMap((curve) => curve.high.concat(curve.values)).filter(Number.isFinite);
  const most = Math.min(1, Math.ceil(Math.max(...tops, 0.1) * 10) / 10);
  const yOf = (share) => BOTTOM - (BOTTOM - TOP) * Math.min(share / most, 1);
  chart.querySelectorAll("g").forEach((each) => each.remove());
  const group = svg("g", {});
  for (const share of [0, most / 2, most]) {
    group.append(svg("line", { x1: LEFT, x2: RIGHT, y1: yOf(share), y2: yOf(share), class: "grid" }));
    group.append(svg("text", { x: LEFT, y: yOf(share) - 4 }, share ? percent(share) : ""));
  }
  for (let i = 0; i <= 10; i += 2) {
    const anchor = i === 0 ? "start" : i === 10 ? "end" : "middle";
    group.append(svg("text", { x: xOf(i / 10), y: BOTTOM + 30, "text-anchor": anchor }, String(i / 10)));
  }
  study.curves.forEach((curve, k) => {
    const at = (values) => study.lams.map((lam, i) => `${xOf(lam)},${yOf(values[i])}`);
    const band = [...at(curve.high), ...at(curve.low).reverse()].join(" ");
    group.append(svg("polygon", { points: band, class: `band s${k}` }));
    group.append(svg("polyline", { points: at(curve.values).join(" "), class: `line s${k}` }));
  });
  chart.append(group, svg("g", { id: "cursors" }));
  chart.querySelector("title").textContent = study.conclusion;
  return yOf;
}

function drawCursors(chart, study, yOf, lams) {
  const group = chart.querySelector("#cursors");
  group.replaceChildren();
  lams.forEach((lam, column) => {
    const one = svg("g", { class: `col-${column}` });
    one.append(svg("line", { x1: xOf(lam), x2: xOf(lam), y1: TOP, y2: BOTTOM, class: "cursor" }));
    for (const curve of study.curves) {
      one.append(svg("circle", { cx: xOf(lam), cy: yOf(valueAt(study, curve.values, lam)), r: 7, class: "dot" }));
    }
    group.append(one);
  });
}
