// The probabilities of a window, a bar a class; of many classes the most probable ones.

const MOST = 12; // bars

export class Bars {
  #list; #labels; #thresholds; #rows;

  /** `thresholds`: of each class, or null; `labels` are text from a stranger's file, never markup. */
  constructor(list, labels, thresholds) {
    [this.#list, this.#labels, this.#thresholds] = [list, labels, thresholds];
    this.#rows = labels.slice(0, MOST).map((_, at) => this.#row(at));
    const notes = [labels.length > MOST && `the ${MOST} most probable of ${labels.length}`,
      thresholds && "a stroke: heard from there on"].filter(Boolean);
    if (notes.length) {
      const more = element("li", "more");
      more.textContent = notes.join("; ");
      list.append(more);
    }
  }

  /** (classes,) -> the bars. Few classes keep their places, so that the eye finds them again. */
  show(probabilities) {
    const ranked = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]);
    const shown = this.#labels.length > MOST ? ranked.slice(0, MOST) : [...probabilities.keys()];
    shown.forEach((label, at) => {
      const row = this.#rows[at], probability = probabilities[label];
      this.#name(row, label);
      row.name.classList.toggle("top", label === ranked[0]);
      row.share.textContent = `${(100 * probability).toFixed(1)} %`;
      row.track.setAttribute("aria-valuenow", probability.toFixed(5));
      row.fill.style.clipPath = `inset(0 ${100 - 100 * probability}% 0 0)`;
    });
  }

  #row(label) {
    const item = element("li"), row = { name: element("span", "name"), share: element("span", "share"),
      track: element("div", "track"), fill: element("div", "fill"), mark: element("div", "mark") };
    row.track.setAttribute("role", "meter");
    row.track.setAttribute("aria-valuemin", "0");
    row.track.setAttribute("aria-valuemax", "1");
    row.track.setAttribute("aria-valuenow", "0");
    row.track.append(row.fill, row.mark);
    item.append(row.name, row.share, row.track);
    this.#list.append(item);
    this.#name(row, label);
    return row;
  }

  #name(row, label) {
    const threshold = this.#thresholds?.[label] ?? null;
    row.name.textContent = row.name.title = this.#labels[label];
    row.track.setAttribute("aria-label", this.#labels[label]);
    row.mark.hidden = threshold === null;
    row.mark.title = threshold === null ? "" : `heard from ${(100 * threshold).toFixed(0)} % on`;
    row.mark.style.left = `${100 * (threshold ?? 0)}%`;
  }
}

function element(tag, name = "") {
  const made = document.createElement(tag);
  made.className = name;
  return made;
}
