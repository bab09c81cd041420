// A loudness curve: `POINTS` values in dB, evenly spaced over the picked sound, or an empty list.
const POINTS = 64, LOW = -60;
const root = element.querySelector(".sc-draw");
const canvas = el("canvas", { tabindex: 0, role: "application", "aria-label": "Loudness curve. Draw with the mouse, or use the arrow keys: left and right move the cursor, up and down change the level." });
const presets = {
  Swell: (x) => -45 + 30 * Math.sin(Math.PI * x), "Fade in": (x) => -50 + 35 * x, "Fade out": (x) => -15 - 35 * x,
  Pulse: (x) => (Math.floor(x * 8) % 2 ? -50 : -18), Clear: null,
};
let curve = [], last = null, isFirst = false, at = 0;

const paint = () => {
  const scale = window.devicePixelRatio || 1;
  canvas.width = canvas.clientWidth * scale;
  canvas.height = canvas.clientHeight * scale;
  const context = canvas.getContext("2d");
  if (!curve.length || !canvas.width) return;
  for (const [width, color] of [[6, "#000a"], [2.5, "#7df9c6"]]) {
    context.beginPath();
    curve.forEach((db, i) => context.lineTo((i / (POINTS - 1)) * canvas.width, (db / LOW) * canvas.height));
    context.lineWidth = width * scale;
    context.strokeStyle = color;
    context.stroke();
  }
  if (document.activeElement === canvas) {
    context.fillStyle = "#fff";
    context.fillRect((at / (POINTS - 1)) * canvas.width - scale, 0, 2 * scale, canvas.height);
  }
};
const publish = () => { props.value = curve.map((db) => Math.round(db * 10) / 10); trigger("input"); };
const start = (db = -30) => { isFirst = !curve.length; if (isFirst) curve = Array(POINTS).fill(db); };
const point = (event) => {
  const box = canvas.getBoundingClientRect();
  const x = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
  const y = Math.min(Math.max((event.clientY - box.top) / box.height, 0), 1);
  return [Math.round(x * (POINTS - 1)), y * LOW];
};
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  last = point(event);
  start(last[1]);
  curve[last[0]] = last[1];
  paint();
});
canvas.addEventListener("pointermove", (event) => {
  if (!last) return;
  const next = point(event);
  const [from, to] = last[0] <= next[0] ? [last, next] : [next, last];
  for (let i = from[0]; i <= to[0]; i++) curve[i] = from[1] + ((to[1] - from[1]) * (i - from[0])) / Math.max(to[0] - from[0], 1);
  // The first stroke's last level continues to both edges.
  if (isFirst) curve.fill(next[1], ...(last[0] <= next[0] ? [next[0]] : [0, next[0] + 1]));
  last = next;
  paint();
});
for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { if (last) { last = null; publish(); } });
canvas.addEventListener("keydown", (event) => {
  const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key], change = { ArrowUp: 3, ArrowDown: -3 }[event.key];
  if (!move && !change) return;
  event.preventDefault();
  start();
  if (move) at = Math.min(Math.max(at + move, 0), POINTS - 1);
  for (let i = at - 2; change && i <= at + 2; i++) if (i in curve) curve[i] = Math.min(Math.max(curve[i] + change, LOW), 0);
  paint();
  publish();
});
for (const name of ["focus", "blur"]) canvas.addEventListener(name, paint);

const build = () => {
  const card = window.soundctmPicked;
  if (!card) { root.replaceChildren(el("p", { class: "sc-empty" }, "Pick a sound first.")); return; }
  const picture = spectrogram(card, "");
  picture.plot.append(canvas);
  picture.figure.append(el("div", { class: "sc-decibels", "aria-hidden": "true" }, ...[0, -20, -40, -60].map((db) => el("span", { style: `top:${(db / LOW) * 100}%` }, `${db} dB`))));
  const choices = Object.entries(presets).map(([label, shape]) => button(label, label === "Clear" ? "Clear the curve" : `${label} curve`, () => {
    curve = shape ? Array.from({ length: POINTS }, (_, i) => shape(i / (POINTS - 1))) : [];
    paint();
    publish();
  }));
  root.replaceChildren(picture.figure, el("div", { class: "sc-buttons", role: "group", "aria-label": "Shapes" }, ...choices));
  paint();
};
watch("value", () => {
  const given = Array.isArray(props.value) ? props.value : [];
  if (given.length && last === null) { curve = given.slice(); paint(); }
});
document.addEventListener("soundctm-picked", build);
new ResizeObserver(paint).observe(canvas);
build();
