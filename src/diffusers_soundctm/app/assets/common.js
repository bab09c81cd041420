// Shared by the controls of the page: prepended to the script of each. Text is inserted as text, never as markup.
const el = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
};

const button = (label, name, onclick, attributes = {}) =>
  el("button", { type: "button", class: "sc-button", "aria-label": name, title: name, onclick, ...attributes }, label);

// A sign with its word, which only touch screens show: they have no tooltips.
const icon = (sign, word) => [el("span", { "aria-hidden": "true" }, sign), el("span", { class: "sc-word" }, ` ${word}`)];
const PLAY = () => icon("▶", "Play"), PAUSE = () => icon("❚❚", "Pause");

// The sound that the player has as A.
const isPicked = (card) => window.soundctmPicked?.id === card.id;

// ★ adds a sound to the shelf or removes it. The shelf updates all buttons with `data-keep`.
const isKept = (id) => !!window.soundctmKept?.has(id);
const keepButton = (label, name, card) => {
  const toggle = () => {
    if (isKept(card.id)) document.dispatchEvent(new CustomEvent("soundctm-forget", { detail: card.id }));
    else trigger("keep", { recipe: card.recipe });
  };
  return button(label, name, toggle, { "data-keep": card.id, "aria-pressed": String(isKept(card.id)) });
};

const playOnly = (audio) => {
  for (const other of window.soundctmPlaying ?? []) if (other !== audio) other.pause();
  window.soundctmPlaying = [audio];
  // Another sound may be played before this one has started. Browsers report that as AbortError.
  return audio.play().catch((error) => { if (error.name !== "AbortError") throw error; });
};

const stepOf = (seconds) => [0.1, 0.2, 0.5, 1, 2, 5].find((step) => seconds / step <= 6) ?? 10;

// A picture of a sound with axes in Hz and seconds. Elements added to `plot` lie over the picture.
const spectrogram = (card, alt) => {
  const hertz = card.ticks.map((tick) => el("span", { style: `bottom:${100 * tick.at}%` }, tick.label));
  const times = [];
  for (let i = 0, step = stepOf(card.seconds); i * step <= card.seconds * 1.001; i++) {
    times.push(el("span", { style: `left:${(100 * i * step) / card.seconds}%` }, String(+(i * step).toFixed(1))));
  }
  const head = el("i", { class: "sc-head" });
  const plot = el("div", { class: "sc-plot" }, el("img", { src: card.image, alt, draggable: "false" }), head);
  const figure = el(
    "div", { class: "sc-spectrogram" },
    el("div", { class: "sc-hertz", "aria-hidden": "true" }, ...hertz, el("b", {}, "Hz")), plot,
    el("div", { class: "sc-times", "aria-hidden": "true" }, ...times, el("b", {}, "s")),
  );
  return { figure, plot, moveTo: (share) => { head.style.left = `${100 * share}%`; } };
};

// Move the playhead while the sound plays.
const follow = (audio, seconds, moveTo) => {
  const tick = () => {
    moveTo(Math.min(audio.currentTime / seconds, 1));
    if (!audio.paused) requestAnimationFrame(tick);
  };
  audio.addEventListener("play", tick);
  audio.addEventListener("seeked", tick);
};
