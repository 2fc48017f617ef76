// A curve over steps as plain SVG: one point a pixel at most, so that ten minutes of it cost what one second does.
import { html } from "./html.js";

const WIDTH = 560;
const HEIGHT = 160;
const LEFT = 56;
const RIGHT = 20; // half of the last mark
const BOTTOM = 24;
const MOST_POINTS = 500;

/** At most MOST_POINTS of the points, the extremes of each stretch kept; the list that is given is not changed. */
export function thinned(points) {
  if (points.length <= MOST_POINTS) return points;
  const stretch = Math.ceil((2 * points.length) / MOST_POINTS);
  const kept = [];
  for (let i = 0; i < points.length; i += stretch) {
    const part = points.slice(i, i + stretch);
    const low = part.reduce((a, b) => (b[1] < a[1] ? b : a));
    const high = part.reduce((a, b) => (b[1] > a[1] ? b : a));
    kept.push(...(low === high ? [low] : [low, high].sort((a, b) => a[0] - b[0])));
  }
  return kept;
}

/** Round numbers that divide low…high into about `count` parts. */
export function ticks(low, high, count) {
  const raw = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((m) => m * power >= raw);
  const first = Math.ceil(low / step) * step;
  return Array.from({ length: Math.floor((high - first) / step + 1e-9) + 1 }, (_, i) => first + i * step);
}
const shown = (n) => String(Number(n.toPrecision(4)));

/** `points`: [step, value] in order; steps are whole numbers and so are their marks. */
export function Curve({ name, points }) {
  const steps = points.map(([step]) => step);
  const values = points.map(([, value]) => value);
  const [from, to] = [Math.min(...steps), Math.max(...steps)];
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const x = (step) => LEFT + ((step - from) / (to - from || 1)) * (WIDTH - LEFT - RIGHT);
  const y = (value) => 8 + (1 - (value - low) / (high - low || 1)) * (HEIGHT - BOTTOM - 8);
  const line = points.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
  const last = shown(values[values.length - 1]);
  return html`<figure class="curve"><figcaption translate=${false}>${name} <strong>${last}</strong></figcaption>
    <svg viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label=${`${name}: ${last}`}>
      ${ticks(low, high, 3).map((v) => html`<g key=${`y${v}`}>
        <line class="grid" x1=${LEFT} x2=${WIDTH} y1=${y(v)} y2=${y(v)} />
        <text x=${LEFT - 6} y=${y(v) + 4} text-anchor="end">${shown(v)}</text></g>`)}
      ${ticks(from, to, 5).filter(Number.isInteger).map((s) => html`<text key=${`x${s}`} x=${x(s)} y=${HEIGHT - 6}
        text-anchor="middle">${s}</text>`)}
      <polyline points=${line} /></svg></figure>`;
}
