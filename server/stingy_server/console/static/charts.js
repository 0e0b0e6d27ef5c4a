// Small charts in SVG. Each has its numbers as text beside it, so the drawing itself is hidden.

import { el, svg } from "./dom.js";

const WIDTH = 120;
const HEIGHT = 32;

/** Make a line over time, and a function that draws other values into it. Null is skipped. */
export function sparkline(className = "spark") {
  const area = svg("path", { class: "area" });
  const line = svg("path", { class: "line" });
  const root = svg(
    "svg",
    { class: className, viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    area,
    line,
  );
  let drawn = "";
  const draw = (values, most = null) => {
    const key = values === null ? "" : `${most}:${values.join()}`;
    if (key === drawn) return;
    drawn = key;
    const [path, filled] = values === null ? ["", ""] : paths(values, most);
    line.setAttribute("d", path);
    area.setAttribute("d", filled);
  };
  return { root, draw };
}

function paths(values, most) {
  const top = Math.max(most ?? 0, ...values.filter((value) => value !== null), 1e-9);
  const step = WIDTH / Math.max(1, values.length - 1);
  const points = values
    .map((value, index) => [index * step, value])
    .filter(([, value]) => value !== null)
    .map(([x, value]) => [x, HEIGHT - 1.5 - (HEIGHT - 4) * (value / top)]);
  if (points.length === 0) return ["", ""];
  if (points.length === 1) points.push([points[0][0] + step, points[0][1]]);
  const line = points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L");
  const [first, last] = [points[0][0].toFixed(1), points.at(-1)[0].toFixed(1)];
  return [`M${line}`, `M${first} ${HEIGHT}L${line}L${last} ${HEIGHT}Z`];
}

/** Make a bar that is filled by a share, and a function that fills it anew. */
export function meter(className = "") {
  const full = el("span", { class: "fill" });
  const root = el("span", { class: `meter ${className}`, "aria-hidden": "true" }, full);
  let drawn = null;
  const draw = (share, level = "") => {
    const key = `${share}:${level}`;
    if (key === drawn) return;
    drawn = key;
    root.classList.toggle("empty", share === null);
    full.style.width = `${Math.min(100, Math.max(0, 100 * (share ?? 0)))}%`;
    root.dataset.level = level;
  };
  return { root, draw };
}

/** Make bars, one for each count. */
export function bars(counts, label) {
  const most = Math.max(...counts, 1e-9);
  const step = 100 / counts.length;
  const gap = counts.length > 40 ? 0 : step * 0.15;
  return svg(
    "svg",
    { class: "bars", viewBox: "0 0 100 28", preserveAspectRatio: "none", role: "img", "aria-label": label },
    ...counts.map((count, index) => {
      const height = count > 0 ? Math.max(1, (27 * count) / most) : 0.4;
      return svg("rect", {
        x: (index * step + gap / 2).toFixed(2),
        y: (28 - height).toFixed(2),
        width: (step - gap).toFixed(2),
        height: height.toFixed(2),
      });
    }),
  );
}
