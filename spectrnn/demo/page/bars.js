// Bar chart of a window's class probabilities; with many classes only the most probable ones.

const MAX_BARS = 12;

export class BarChart {
  #list; #labels; #thresholds; #rows;

  /**
   * `thresholds`: detection threshold per class, null for background classes; or null if none were tuned. `labels` come
   * from a model file that is not trusted: they become text, never markup.
   */
  constructor(list, labels, thresholds) {
    [this.#list, this.#labels, this.#thresholds] = [list, labels, thresholds];
    this.#rows = labels.slice(0, MAX_BARS).map((_, index) => this.#createRow(index));
    const notes = [labels.length > MAX_BARS && `The ${MAX_BARS} most probable of ${labels.length} classes.`,
      thresholds && "Marks are detection thresholds."].filter(Boolean);
    if (notes.length) {
      const note = createElement("li", "note");
      note.textContent = notes.join(" ");
      list.append(note);
    }
  }

  /** Shows probabilities (classes,). Few classes keep their order, so that bars do not move. */
  show(probabilities) {
    const classes = [...probabilities.keys()];
    const ranked = [...classes].sort((a, b) => probabilities[b] - probabilities[a]);
    const shown = classes.length > MAX_BARS ? ranked.slice(0, MAX_BARS) : classes;
    shown.forEach((label, index) => {
      const row = this.#rows[index], probability = probabilities[label];
      this.#setLabel(row, label);
      row.name.classList.toggle("top", label === ranked[0]);
      row.value.textContent = `${(100 * probability).toFixed(1)} %`;
      row.track.setAttribute("aria-valuenow", probability.toFixed(5));
      row.fill.style.clipPath = `inset(0 ${100 - 100 * probability}% 0 0)`;
    });
  }

  #createRow(label) {
    const item = createElement("li"), row = { name: createElement("span", "name"), value: createElement("span", "value"),
      track: createElement("div", "track"), fill: createElement("div", "fill"), mark: createElement("div", "mark") };
    row.track.setAttribute("role", "meter");
    row.track.setAttribute("aria-valuemin", "0");
    row.track.setAttribute("aria-valuemax", "1");
    row.track.setAttribute("aria-valuenow", "0");
    row.track.append(row.fill, row.mark);
    item.append(row.name, row.value, row.track);
    this.#list.append(item);
    this.#setLabel(row, label);
    return row;
  }

  #setLabel(row, label) {
    const threshold = this.#thresholds?.[label] ?? null;
    row.name.textContent = row.name.title = this.#labels[label];
    row.track.setAttribute("aria-label", this.#labels[label]);
    row.mark.hidden = threshold === null;
    row.mark.title = threshold === null ? "" : `Detection threshold: ${(100 * threshold).toFixed(0)} %`;
    row.mark.style.left = `${100 * (threshold ?? 0)}%`;
  }
}

function createElement(tag, className = "") {
  const element = document.createElement(tag);
  element.className = className;
  return element;
}
