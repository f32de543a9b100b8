// The list of the opened files, each with its length and most probable class; a file that is chosen is shown.

export class FileList {
  #body; #onchoose; #rows = [];

  /** `body`: of a table. `onchoose` is called with the index of a file. Names and labels become text, never markup. */
  constructor(body, onchoose) {
    [this.#body, this.#onchoose] = [body, onchoose];
  }

  /** Starts a list of files. */
  reset(names) {
    this.#rows = names.map((name, index) => {
      const row = this.#body.ownerDocument.createElement("tr");
      row.innerHTML = '<td><button type="button"></button></td><td></td><td></td><td></td>';
      const button = row.querySelector("button");
      button.textContent = name;
      button.addEventListener("click", () => this.#onchoose(index));
      return row;
    });
    this.#body.replaceChildren(...this.#rows);
  }

  /** Shows values of a file: length, class and probability as text, or an error. */
  update(index, texts, isError = false) {
    const [, ...cells] = this.#rows[index].cells;
    cells.forEach((cell, column) => (cell.textContent = texts[column] ?? ""));
    cells[1].colSpan = isError ? 2 : 1;
    cells[2].hidden = isError;
    this.#rows[index].classList.toggle("failed", isError);
  }

  /** Marks the file that is shown. */
  mark(index) {
    this.#rows.forEach((row, other) => row.querySelector("button").setAttribute("aria-pressed", String(other === index)));
  }
}
