// A list of clips of which a part is shown: the page defines `card`, which makes the list item of a clip.

const PAGE_SIZE = 24;  // clips per "more"
let shown = [];  // the clips that pass the filters

function setUpList(filter, reset) {
  byId("filters").addEventListener("input", filter);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("reset").addEventListener("click", reset);
  byId("more").addEventListener("click", () => showMore(true));
}

function showList() {
  byId("list").replaceChildren();
  showMore(false);
}

function showMore(focus) {
  const list = byId("list");
  const first = list.children.length;
  list.append(...shown.slice(first, first + PAGE_SIZE).map(card));
  const rest = shown.length - list.children.length;
  byId("more").hidden = rest <= 0;
  byId("more").textContent = `${formatCount(Math.min(PAGE_SIZE, rest))} more of ${formatCount(rest)}`;
  if (focus) list.children[first]?.focus();
}

function toClips() {
  byId("clips").scrollIntoView();
  byId("list").firstElementChild?.focus({ preventScroll: true });
}

function moveInList(step) {
  const cards = [...byId("list").children];
  const at = cards.indexOf(document.activeElement.closest(".clip"));
  if (at + step >= cards.length && !byId("more").hidden) showMore(true);
  else cards[at < 0 ? 0 : Math.max(0, Math.min(cards.length - 1, at + step))]?.focus();
}

// Adds the spectrogram of a clip to its card; returns an element with the player.
function appendMedia(item, clip) {
  const block = byId(`clip-${clip.number}`);
  const media = block && JSON.parse(block.textContent);
  const controls = element("div", { class: "controls" });
  if (media) {
    item.append(spectrogramView(clip, media));
    controls.append(element("div", { class: "buttons" }, ...player(item, clip, media.audio)));
  } else item.append(element("p", { class: "absent" }, "Audio and spectrogram are omitted."));
  return controls;
}

// Keys of the page besides those of all lists, and of a card, as for `useCardKey`.
function setUpShortcuts(reset, own = {}, useOwnCardKey = () => false) {
  const shortcuts = { j: () => moveInList(1), k: () => moveInList(-1), "/": () => byId("search").focus(), ...own };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const here = event.target.closest(".clip");
    const typing = event.target.matches("input:not([type=checkbox]), select");
    if (typing && here && ["Escape", "Enter"].includes(event.key)) { here.focus(); event.preventDefault(); return; }
    if (event.key === "Escape") { reset(); document.activeElement.blur(); return; }
    if (typing) return;
    if (here && (useCardKey(here, event) || useOwnCardKey(here, event))) event.preventDefault();
    else if (shortcuts[event.key]) { shortcuts[event.key](); event.preventDefault(); }
  });
}
