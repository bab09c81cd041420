// The keyboard: keys that work anywhere on the page, and the list that names them.
const root = element.querySelector(".sc-shortcuts");
const keys = {
  "Enter": "in a text field at the top: make eight drafts",
  "1 – 8": "play a draft",
  "Shift + 1 – 8": "pick a draft",
  "P": "play or pause the picked sound",
  "A, B": "listen to A or to B",
  "R": "refine the picked sound",
  "K": "keep the picked sound, or B",
  "E": "export all kept sounds",
  "Esc": "cancel what is being made",
  "Tab": "go to the next control; arrow keys change sliders and the loudness curve",
  "?": "show this list",
};
const list = el("dl", {}, ...Object.entries(keys).flatMap(([key, text]) => [el("dt", {}, el("kbd", {}, key)), el("dd", {}, text)]));
const dialog = el("dialog", { "aria-label": "Keyboard shortcuts" }, el("h2", {}, "Keyboard shortcuts"), list, button("Close", "Close the keyboard shortcuts", () => dialog.close()));
root.replaceChildren(button("Shortcuts ?", "Show the keyboard shortcuts", () => dialog.showModal()), dialog);

document.addEventListener("keydown", (event) => {
  if (dialog.open) return;  // Escape closes the list and cancels nothing
  if (event.key === "Escape") document.querySelector("#cancel")?.click();
  const isTyping = event.target.closest?.("input:not([type=range]):not([type=radio]), textarea, [contenteditable=true]");
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "?") dialog.showModal();
  const draft = /^Digit[1-8]$/.test(event.code) ? window.soundctmDrafts?.[Number(event.code.at(-1)) - 1] : null;
  if (draft) event.shiftKey ? draft.pick() : draft.play();
  else if (/^[1-8]$/.test(event.key)) window.soundctmDrafts?.[Number(event.key) - 1]?.play();  // other keyboards
  const player = window.soundctmPlayer;
  const act = {
    p: () => player?.play(), a: () => player?.listen(0), b: () => player?.listen(1), k: () => player?.keep(),
    r: () => document.querySelector("#refine")?.click(), e: () => document.querySelector(".sc-export")?.click(),
  }[event.key];
  act?.();
});
// Enter in the prompt moves the focus to the drafts, so that digits play them. Not before keyup: the field needs Enter.
document.addEventListener("keyup", (event) => {
  const isRequest = event.key === "Enter" && !event.isComposing && event.target.closest?.("#prompt") && event.target.value?.trim();
  if (isRequest) document.querySelector("#drafts .sc-grid").focus({ preventScroll: true });
});
