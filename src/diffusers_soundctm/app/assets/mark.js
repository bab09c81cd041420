// A marked part of the picked sound: [start, end] in seconds, or an empty list.
const root = element.querySelector(".sc-mark");
const shade = el("i", { class: "sc-shade", hidden: true });
const surface = el("div", { class: "sc-surface" }, shade);
const fields = ["from", "to"].map((name) => el("input", { type: "number", min: 0, step: 0.1, "aria-label": `Marked ${name}, seconds` }));
let span = [], begun = null;

const show = () => {
  const seconds = window.soundctmPicked?.seconds ?? 1;
  shade.hidden = !span.length;
  if (!span.length) return;
  shade.style.left = `${(100 * span[0]) / seconds}%`;
  shade.style.width = `${(100 * (span[1] - span[0])) / seconds}%`;
  fields.forEach((field, i) => { field.value = span[i].toFixed(2); });
};
const publish = () => { props.value = span.map((seconds) => Math.round(seconds * 1000) / 1000); trigger("input"); };
const timeOf = (event) => {
  const box = surface.getBoundingClientRect();
  return Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1) * window.soundctmPicked.seconds;
};
surface.addEventListener("pointerdown", (event) => {
  surface.setPointerCapture(event.pointerId);
  begun = timeOf(event);
});
surface.addEventListener("pointermove", (event) => {
  if (begun === null) return;
  const now = timeOf(event);
  span = [Math.min(begun, now), Math.max(begun, now)];
  show();
});
for (const name of ["pointerup", "pointercancel"]) surface.addEventListener(name, () => { if (begun !== null) { begun = null; publish(); } });
for (const field of fields) {
  field.addEventListener("change", () => {
    const seconds = window.soundctmPicked.seconds;
    // An empty field stands for the start or the end of the sound.
    const values = fields.map((one, i) => (one.value === "" ? i * seconds : Math.min(Math.max(Number(one.value), 0), seconds)));
    span = [Math.min(...values), Math.max(...values)];
    show();
    publish();
  });
}

const build = () => {
  const card = window.soundctmPicked;
  if (!card) { root.replaceChildren(el("p", { class: "sc-empty" }, "Pick a sound first.")); return; }
  if (span.length && span[1] > card.seconds) { span = []; publish(); }
  const picture = spectrogram(card, "");
  picture.plot.append(surface);
  root.replaceChildren(picture.figure, el("p", { class: "sc-fields" }, "Marked from ", fields[0], " to ", fields[1], " seconds"));
  show();
};
document.addEventListener("soundctm-picked", build);
build();
