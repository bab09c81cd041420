// Tiles of drafts or variations.
const root = element.querySelector(".sc-grid");
root.tabIndex = -1;
const tiles = new Map();

const tile = (card, index, keys) => {
  const name = `${keys ? `draft ${index + 1}` : `variation ${index + 1}`}, seed ${card.seed}`;
  const audio = el("audio", { src: card.audio, preload: "auto" });
  audio.loop = card.is_loop;
  const picture = spectrogram(card, `Spectrogram of ${name}`);
  follow(audio, card.seconds, picture.moveTo);
  const play = button(PLAY(), `Play ${name}`, () => (audio.paused ? playOnly(audio) : audio.pause()), { class: "sc-button sc-play" });
  audio.addEventListener("play", () => { play.replaceChildren(...PAUSE()); play.setAttribute("aria-pressed", "true"); });
  audio.addEventListener("pause", () => { play.replaceChildren(...PLAY()); play.setAttribute("aria-pressed", "false"); });
  const pick = button("Pick", `Pick ${name}`, () => trigger("pick", { recipe: card.recipe }), { class: "sc-button sc-wide", "aria-pressed": String(isPicked(card)) });
  const node = el(
    "article", { class: "sc-tile", "aria-label": name, "data-id": card.id, "data-seed": card.seed },
    el("header", {}, keys ? el("kbd", {}, String(index + 1)) : null, el("span", {}, `seed ${card.seed}`)),
    picture.figure,
    el(
      "div", { class: "sc-buttons" }, play, pick,
      button(icon("⇢", "Morph"), `Morph to ${name}`, () => trigger("second", { recipe: card.recipe })),
      keepButton(icon("★", "Keep"), `Keep ${name}`, card),
    ),
    audio,
  );
  const mark = () => pick.setAttribute("aria-pressed", String(isPicked(card)));
  return { node, mark, pick: () => pick.click(), play: () => { audio.currentTime = 0; return playOnly(audio); } };
};

const render = () => {
  const { cards = [], total = 0, keys = false } = props.value || {};
  const shown = cards.map((card, index) => {
    if (!tiles.has(card.id)) tiles.set(card.id, tile(card, index, keys));
    return tiles.get(card.id);
  });
  for (const id of tiles.keys()) if (!cards.some((card) => card.id === id)) tiles.delete(id);
  const waiting = Array.from({ length: Math.max(total - cards.length, 0) }, () => el("div", { class: "sc-tile sc-waiting", "aria-hidden": "true" }));
  // Tiles that stay are not moved, so that a playing sound continues.
  const nodes = [...shown.map((one) => one.node), ...waiting];
  nodes.forEach((node, index) => { if (root.children[index] !== node) root.insertBefore(node, root.children[index] ?? null); });
  while (root.children.length > nodes.length) root.lastChild.remove();
  if (keys) window.soundctmDrafts = shown;
};
document.addEventListener("soundctm-picked", () => tiles.forEach((one) => one.mark()));
watch("value", render);
render();
