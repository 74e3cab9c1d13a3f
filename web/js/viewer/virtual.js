// A grid of thousands of cards of which only those in sight are in the page.

const AHEAD = 2;

export class VirtualGrid {
  /**
   * @param {HTMLElement} scroller what scrolls; the grid is put into it
   * @param {object} given
   * @param {number} given.height of a card, in pixels, with the gap below it
   * @param {number} given.width the least, of a card
   * @param {(item: object) => HTMLElement} given.draw makes a card
   * @param {string} given.label of the list, for screen readers
   */
  constructor(scroller, { height, width, draw, label }) {
    Object.assign(this, { scroller, height, width, draw, items: [], drawn: new Map(), columns: 1, at: 0 });
    this.plane = document.createElement("div");
    this.plane.className = "hapax-plane";
    this.plane.setAttribute("role", "list");
    this.plane.setAttribute("aria-label", label);
    scroller.append(this.plane);
    this.plane.addEventListener("keydown", (event) => this.move(event));
    this.plane.addEventListener("focusin", (event) => this.remember(event.target));
    scroller.addEventListener("scroll", () => this.soon(), { passive: true });
    this.watcher = new ResizeObserver(() => this.soon(true));
    this.watcher.observe(scroller);
  }

  /** Show other items, from the top. */
  show(items) {
    this.items = items;
    this.at = 0;
    this.scroller.scrollTop = 0;
    this.clear();
    this.lay();
  }

  /** Draw one item anew. */
  redraw(item) {
    const place = this.items.indexOf(item);
    const card = this.drawn.get(place);
    if (!card) return;
    const focused = card.contains(document.activeElement);
    card.remove();
    this.drawn.delete(place);
    this.lay();
    if (focused) this.drawn.get(place)?.focus({ preventScroll: true });
  }

  /** Stop watching. */
  end() {
    this.watcher.disconnect();
    this.items = [];
    this.clear();
  }

  clear() {
    for (const card of this.drawn.values()) card.remove();
    this.drawn.clear();
  }

  soon(resized = false) {
    this.resized ||= resized;
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      if (this.resized && this.fitted() !== this.columns) this.clear();
      this.resized = false;
      this.lay();
    });
  }

  fitted() {
    return Math.max(1, Math.floor(this.plane.clientWidth / this.width));
  }

  lay() {
    this.columns = this.fitted();
    const rows = Math.ceil(this.items.length / this.columns);
    this.plane.style.height = `${rows * this.height}px`;
    const top = this.scroller.scrollTop - this.plane.offsetTop;
    const first = Math.max(0, Math.floor(top / this.height) - AHEAD);
    const last = Math.min(rows, Math.ceil((top + this.scroller.clientHeight) / this.height) + AHEAD);
    const [from, to] = [first * this.columns, Math.min(this.items.length, last * this.columns)];
    for (const [place, card] of this.drawn) {
      // What has the focus stays, or the keyboard would lose its place.
      if ((place < from || place >= to) && !card.contains(document.activeElement)) {
        card.remove();
        this.drawn.delete(place);
      }
    }
    for (let place = from; place < to; place += 1) if (!this.drawn.has(place)) this.add(place);
  }

  add(place) {
    const card = this.draw(this.items[place]);
    card.setAttribute("role", "listitem");
    card.setAttribute("aria-setsize", this.items.length);
    card.setAttribute("aria-posinset", place + 1);
    card.tabIndex = place === this.at ? 0 : -1;
    card.style.width = `calc(${100 / this.columns}% - var(--gap))`;
    card.style.left = `${(100 / this.columns) * (place % this.columns)}%`;
    card.style.top = `${Math.floor(place / this.columns) * this.height}px`;
    card.dataset.place = place;
    this.drawn.set(place, card);
    // Before the next one that is there, so that Tab goes through them in order.
    const next = [...this.plane.children].find((other) => Number(other.dataset.place) > place);
    this.plane.insertBefore(card, next ?? null);
  }

  remember(target) {
    const card = target.closest("[data-place]");
    if (!card) return;
    this.drawn.get(this.at)?.setAttribute("tabindex", "-1");
    this.at = Number(card.dataset.place);
    card.tabIndex = 0;
  }

  move(event) {
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.columns, ArrowUp: -this.columns };
    const ends = { Home: -this.items.length, End: this.items.length };
    const step = steps[event.key] ?? ends[event.key];
    if (step === undefined || !event.target.matches("[data-place]")) return;
    event.preventDefault();
    this.focus(Math.min(this.items.length - 1, Math.max(0, this.at + step)));
  }

  /** Bring a card into sight and focus it. */
  focus(place) {
    const top = this.plane.offsetTop + Math.floor(place / this.columns) * this.height;
    const { scrollTop, clientHeight } = this.scroller;
    if (top < scrollTop) this.scroller.scrollTop = top;
    else if (top + this.height > scrollTop + clientHeight) this.scroller.scrollTop = top + this.height - clientHeight;
    this.lay();
    this.drawn.get(place)?.focus({ preventScroll: true });
  }
}
