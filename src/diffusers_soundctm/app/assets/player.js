// The player of the picked sound (A) and of what was made from it (B).
const root = element.querySelector(".sc-player");
root.tabIndex = -1;
let audios = [];

const chart = (value, seconds) => {
  const lines = [["target", "your curve", value.target], ["before", "before", value.before], ["achieved", "after", value.achieved]].filter(([, , line]) => line?.length);
  if (!lines.length) return null;
  const low = -80, at = (db) => ((Math.max(db, low) / low) * 100).toFixed(2);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const attributes = { viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img", "aria-label": "Loudness over time: your curve, before and after" };
  for (const [name, text] of Object.entries(attributes)) svg.setAttribute(name, text);
  for (const [name, , line] of lines) {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    path.setAttribute("class", `sc-line sc-${name}`);
    path.setAttribute("points", line.map((db, i) => `${((i / (line.length - 1)) * 100).toFixed(2)},${at(db)}`).join(" "));
    svg.append(path);
  }
  const decibels = [0, -20, -40, -60, -80].map((db) => el("span", { style: `bottom:${100 - at(db)}%` }, String(db)));
  const times = [];
  for (let i = 0, step = stepOf(seconds); i * step <= seconds * 1.001; i++) {
    times.push(el("span", { style: `left:${(100 * i * step) / seconds}%` }, String(+(i * step).toFixed(1))));
  }
  return el(
    "figure", { class: "sc-chart" },
    el("figcaption", {}, "Loudness ", ...lines.map(([name, label]) => el("span", { class: `sc-key sc-${name}` }, label))),
    el(
      "div", { class: "sc-spectrogram" },
      el("div", { class: "sc-hertz", "aria-hidden": "true" }, ...decibels, el("b", {}, "dB")),
      el("div", { class: "sc-plot" }, svg),
      el("div", { class: "sc-times", "aria-hidden": "true" }, ...times, el("b", {}, "s")),
    ),
  );
};

const render = () => {
  const value = props.value || {};
  const wasAt = audios.length ? audios[0].currentTime : 0;
  for (const audio of audios) audio.pause();
  window.soundctmPicked = value.a ?? null;
  document.dispatchEvent(new CustomEvent("soundctm-picked"));
  if (!value.a) {
    audios = [];
    window.soundctmPlayer = null;
    root.replaceChildren(el("p", { class: "sc-empty" }, "Pick a draft to work on it here."));
    return;
  }
  const cards = [value.a, value.b].filter(Boolean);
  const names = ["A", "B"];
  audios = cards.map((card) => el("audio", { src: card.audio, preload: "auto" }));
  audios.forEach((audio, i) => { audio.loop = cards[i].is_loop; });
  const pictures = cards.map((card, i) => spectrogram(card, `Spectrogram of ${names[i]}: ${card.prompt}, ${card.about}`));
  pictures.forEach((picture, i) => follow(audios[i], cards[i].seconds, picture.moveTo));
  let active = cards.length - 1;
  const play = button(PLAY(), "Play or pause", () => (audios[active].paused ? playOnly(audios[active]) : audios[active].pause()), { class: "sc-button sc-play sc-large" });
  const seek = el("input", { type: "range", min: 0, max: 1, step: 0.001, value: 0, "aria-label": "Position", class: "sc-seek" });
  const clock = el("output", { class: "sc-clock", "aria-live": "off" });
  const caption = el("p", { class: "sc-caption" });
  const stage = el("div", { class: "sc-stage" }, ...pictures.map((picture) => picture.figure));
  const choose = names.slice(0, cards.length).map((name, i) => button(name, `Listen to ${name}, ${cards[i].about}`, () => switchTo(i), { class: "sc-button sc-ab" }));

  const showTime = () => {
    const audio = audios[active];
    seek.value = audio.currentTime / cards[active].seconds;
    clock.textContent = `${audio.currentTime.toFixed(1)} / ${cards[active].seconds.toFixed(1)} s`;
  };
  const show = () => {
    pictures.forEach((picture, i) => { picture.figure.hidden = i !== active; });
    choose.forEach((node, i) => node.setAttribute("aria-pressed", String(i === active)));
    caption.replaceChildren(el("strong", {}, cards[active].prompt), ` ${cards[active].about}`);
    play.replaceChildren(...(audios[active].paused ? PLAY() : PAUSE()));
    showTime();
  };
  const switchTo = (next) => {
    if (next === active) return;
    const now = audios[active];
    const wasPlaying = !now.paused;
    now.pause();
    audios[next].currentTime = Math.min(now.currentTime, cards[next].seconds);
    active = next;
    if (wasPlaying) playOnly(audios[active]);
    show();
  };
  for (const audio of audios) {
    for (const event of ["play", "pause", "seeked", "timeupdate"]) audio.addEventListener(event, () => { if (audio === audios[active]) show(); });
  }
  seek.addEventListener("input", () => { audios[active].currentTime = seek.value * cards[active].seconds; });
  if (wasAt < cards[active].seconds) audios[active].currentTime = wasAt;

  const actions = el("div", { class: "sc-buttons" });
  names.slice(0, cards.length).forEach((name, i) => {
    const which = value.b ? name : "this sound";
    if (cards[i].recipe) actions.append(keepButton(value.b ? `★ Keep ${name}` : "★ Keep", `Keep ${which} on the shelf`, cards[i]));
  });
  if (value.b) actions.append(button("Work on B", "Work on B: it becomes the new A", () => trigger("use", { recipe: value.b.recipe })));
  const drift = value.drift === null || value.drift === undefined ? null : el(
    "p", { class: "sc-drift" }, "Difference from A ", el("meter", { min: 0, max: 1, value: value.drift, "aria-label": "Difference from A" }),
    el("output", {}, ` ${value.drift.toFixed(3)}`), el("small", {}, " 0: the same sound; about 1: a different one"),
  );
  const shape = cards.length > 1 ? el("div", { class: "sc-buttons", role: "group", "aria-label": "A or B" }, ...choose) : null;
  root.replaceChildren(
    caption, stage, el("div", { class: "sc-transport" }, play, shape, seek, clock), drift ?? "",
    chart(value, cards[0].seconds) ?? "", actions, ...audios,
  );
  show();
  window.soundctmPlayer = {
    play: () => play.click(),
    listen: (i) => choose[i]?.click(),
    keep: () => [...actions.querySelectorAll("[data-keep]")].at(-1)?.click(),
  };
  // A picked sound takes view and focus along; a new B only has to be in view.
  const isPick = !value.b;
  if (isPick) root.focus({ preventScroll: true });
  root.scrollIntoView({ block: isPick ? "start" : "nearest" });
};
watch("value", render);
render();
