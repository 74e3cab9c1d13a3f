// What the pages say: English, or what was put over it.

import english from "./words/en.js";

let words = english;

/** Speak another language; what it lacks stays English. */
export function speak(others) {
  words = { ...english, ...others };
}

/**
 * A sentence by its key, with values in place of {names}.
 * A number `n` of 1 takes the key with ".one" behind it, where there is one.
 */
export function t(key, values = {}) {
  const form = values.n === 1 && words[`${key}.one`] ? `${key}.one` : key;
  return (words[form] ?? key).replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

/** A share in percent, with as many digits as it deserves. */
export function percent(share) {
  const value = 100 * share;
  return `${value.toFixed(value > 0 && value < 9.95 ? 1 : 0)}\u2009%`;
}

/** An interval of shares in percent. */
export function interval(low, high) {
  const digits = 100 * high < 9.95 ? 1 : 0;
  return `${(100 * low).toFixed(digits)}\u2013${(100 * high).toFixed(digits)}`;
}
