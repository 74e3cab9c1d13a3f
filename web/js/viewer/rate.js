// How often something shows: a dot with its interval on a scale that gives the rare the most room.

import { h, svg } from "./dom.js";
import { interval, percent, t } from "./words.js";

// Shares below a thousandth are all at the left end.
const LEAST = 0.001;
const TICKS = [0.01, 0.1];

/** Where a share lies on the logarithmic scale from .1 % to 100 %, from 0 to 100. */
export const place = (share) => 100 * (1 - Math.log(Math.max(share, LEAST)) / Math.log(LEAST));

/** One or more rates {rate, low, high} above each other on one scale; the class of each is given beside it. */
export function scale(...rates) {
  const height = 10 * rates.length;
  const ticks = TICKS.map(place).map((x) => svg("line", { class: "tick", x1: x, x2: x, y1: 0, y2: height }));
  const drawn = rates.map(({ rate, low, high, kind = "" }, row) => {
    const y = 10 * row + 5;
    const ends = { x1: place(low), x2: place(high), y1: y, y2: y };
    // Round in any width: a line of no length with round ends.
    return [
      svg("line", { class: `whisker ${kind}`, ...ends }),
      svg("line", { class: `dot ${kind}`, x1: place(rate), x2: place(rate), y1: y, y2: y }),
    ];
  });
  // An attribute: report.html's content policy allows no styles in the page.
  const frame = { class: "hapax-scale", viewBox: `0 0 100 ${height}`, height };
  return svg("svg", { ...frame, preserveAspectRatio: "none", "aria-hidden": "true" }, ticks, drawn);
}

/** A rate with its scale and its numbers; screen readers get one sentence. */
export function rateLine(rate) {
  const said = { rate: percent(rate.rate), interval: interval(rate.low, rate.high) };
  const sentence = t(rate.shows ? "feature.shows" : "feature.fires", said);
  return h(
    "div",
    { class: "hapax-rate", title: sentence, role: "img", "aria-label": sentence },
    h("b", {}, said.rate),
    scale(rate),
    h("span", {}, said.interval),
  );
}
