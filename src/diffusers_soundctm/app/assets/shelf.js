// Kept sounds, with their files, are stored in this browser (IndexedDB). They survive reloads and server restarts.
const root = element.querySelector(".sc-shelf");
const opened = new Promise((resolve, reject) => {
  const request = indexedDB.open("soundctm", 1);
  request.onupgradeneeded = () => request.result.createObjectStore("sounds", { keyPath: "id" });
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});
const store = async (mode, act) => {
  const sounds = (await opened).transaction("sounds", mode).objectStore("sounds");
  return new Promise((resolve, reject) => {
    const request = act(sounds);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
};
const bytesOf = (uri) => Uint8Array.from(atob(uri.slice(uri.indexOf(",") + 1)), (c) => c.charCodeAt(0));
const save = (name, bytes, type) => {
  const url = URL.createObjectURL(new Blob([bytes], { type }));
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
};

// Other tabs show the same shelf.
const tabs = new BroadcastChannel("soundctm-shelf");
tabs.addEventListener("message", () => render());
const local = (time) => new Date(time - new Date(time).getTimezoneOffset() * 60000).toISOString().slice(0, 19);
const exportAll = async () => {
  const sounds = (await sorted()).filter((sound) => sound.recipe);
  trigger("export", { sounds: sounds.map((sound) => ({ recipe: sound.recipe, kept: local(sound.kept) })) });
};

const say = el("p", { class: "sc-say", role: "status" });
const copy = async (text) => {
  try {
    await navigator.clipboard.writeText(text);
    say.textContent = "The code is copied to the clipboard.";
  } catch {
    say.textContent = "This browser does not allow copying here. Export all sounds: the zip file contains the code.";
  }
};
const forget = async (id) => {
  await store("readwrite", (sounds) => sounds.delete(id));
  say.textContent = "";
  tabs.postMessage("changed");
  render();
};
document.addEventListener("soundctm-forget", (event) => forget(event.detail));
const item = (sound) => {
  const audio = el("audio", { src: sound.audio, preload: "none" });
  audio.loop = sound.is_loop;
  const play = button(PLAY(), `Play ${sound.name}`, () => (audio.paused ? playOnly(audio) : audio.pause()), { class: "sc-button sc-play" });
  audio.addEventListener("play", () => { play.replaceChildren(...PAUSE()); });
  audio.addEventListener("pause", () => { play.replaceChildren(...PLAY()); });
  return el(
    "li", { class: "sc-item", "data-id": sound.id }, play,
    el("img", { src: sound.image, alt: `Spectrogram of ${sound.name}` }),
    el("span", { class: "sc-words" }, el("strong", {}, sound.prompt), el("small", {}, `${sound.about}, ${sound.seconds.toFixed(1)} s`)),
    el(
      "span", { class: "sc-buttons" },
      button("WAV", `Download ${sound.name} as WAV`, () => save(`${sound.name}.wav`, bytesOf(sound.wav), "audio/wav")),
      button("FLAC", `Download ${sound.name} as FLAC`, () => save(`${sound.name}.flac`, bytesOf(sound.audio), "audio/flac")),
      button("Copy Python code", `Copy the Python code of ${sound.name}`, () => copy(sound.code)),
      button("Pick", `Pick ${sound.name}`, () => trigger("pick", { recipe: sound.recipe })),
      button(icon("✕", "Remove"), `Remove ${sound.name} from the shelf`, () => forget(sound.id)),
    ),
    audio,
  );
};
const sorted = async () => (await store("readonly", (all) => all.getAll())).sort((one, other) => one.kept - other.kept);
const render = async () => {
  try {
    const sounds = await sorted();
    window.soundctmKept = new Set(sounds.map((sound) => sound.id));
    for (const star of document.querySelectorAll("[data-keep]")) star.setAttribute("aria-pressed", String(isKept(star.dataset.keep)));
    if (!sounds.length) { root.replaceChildren(el("p", { class: "sc-empty" }, "Nothing kept yet. Press ★ to keep a sound in this browser."), say); return; }
    root.replaceChildren(
      el("ul", {}, ...sounds.map(item)),
      el("div", { class: "sc-buttons" }, button("Export all (zip)", "Export all kept sounds as a zip file", exportAll, { class: "sc-button sc-export" })), say,
    );
  } catch (error) {
    root.replaceChildren(el("p", { class: "sc-empty" }, "This browser cannot store sounds, perhaps because this is a private window."));
  }
};
watch("value", async () => {
  if (props.value?.download) {
    el("a", { href: props.value.download, download: "soundctm.zip" }).click();
    props.value = {};
    return;
  }
  if (!props.value?.id) return;
  const sound = { ...props.value, kept: Date.now() };
  try {
    await store("readwrite", (sounds) => sounds.put(sound));
    say.textContent = "Kept.";
    tabs.postMessage("changed");
    props.value = {};  // so that keeping the same sound again after removing it is a change
  } catch {
    say.textContent = "This browser has no space for more sounds. Remove some from the shelf.";
  }
  render();
});
render();
