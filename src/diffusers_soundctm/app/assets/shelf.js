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

// A zip archive without compression, which would gain little on audio: local headers, then the directory.
const crcTable = Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n >>> 0;
});
const crc32 = (bytes) => ~bytes.reduce((crc, byte) => crcTable[(crc ^ byte) & 255] ^ (crc >>> 8), -1) >>> 0;
const zip = (files) => {
  const parts = [], directory = [];
  let offset = 0;
  for (const [name, bytes] of files) {
    const path = new TextEncoder().encode(name);
    const common = new DataView(new ArrayBuffer(26));
    [20, 0x0800, 0, 0, 0x21].forEach((value, i) => common.setUint16(2 * i, value, true));
    [crc32(bytes), bytes.length, bytes.length].forEach((value, i) => common.setUint32(10 + 4 * i, value, true));
    common.setUint16(22, path.length, true);
    const tail = new DataView(new ArrayBuffer(14));
    tail.setUint32(10, offset, true);
    parts.push(new Uint8Array([0x50, 0x4b, 3, 4]), common, path, bytes);
    directory.push(new Uint8Array([0x50, 0x4b, 1, 2, 20, 0]), common, tail, path);
    offset += 30 + path.length + bytes.length;
  }
  const end = new DataView(new ArrayBuffer(22));
  end.setUint32(0, 0x06054b50, true);
  [files.length, files.length].forEach((value, i) => end.setUint16(8 + 2 * i, value, true));
  end.setUint32(12, directory.reduce((sum, part) => sum + part.byteLength, 0), true);
  end.setUint32(16, offset, true);
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
};
const exportAll = async () => {
  const files = [];
  for (const sound of await store("readonly", (sounds) => sounds.getAll())) {
    const text = (content) => new TextEncoder().encode(content);
    files.push([`${sound.name}.wav`, bytesOf(sound.wav)], [`${sound.name}.flac`, bytesOf(sound.audio)]);
    files.push([`${sound.name}.py`, text(sound.code)], [`${sound.name}.json`, text(JSON.stringify(sound.recipe, null, 2))]);
  }
  save("soundctm.zip", zip(files), "application/zip");
};

const say = el("p", { class: "sc-say", role: "status" });
const copy = async (text) => {
  try {
    await navigator.clipboard.writeText(text);
    say.textContent = "The code is copied to the clipboard.";
  } catch {
    say.textContent = "This browser does not allow copying here. Download the zip file, which contains the code.";
  }
};
const forget = async (id) => {
  await store("readwrite", (sounds) => sounds.delete(id));
  say.textContent = "";
  render();
};
document.addEventListener("soundctm-forget", (event) => forget(event.detail));
const item = (sound) => {
  const audio = el("audio", { src: sound.audio, preload: "none" });
  audio.loop = sound.is_loop;
  const play = button("▶", `Play ${sound.name}`, () => (audio.paused ? playOnly(audio) : audio.pause()), { class: "sc-button sc-play" });
  audio.addEventListener("play", () => { play.textContent = "❚❚"; });
  audio.addEventListener("pause", () => { play.textContent = "▶"; });
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
      button("✕", `Remove ${sound.name} from the shelf`, () => forget(sound.id)),
    ),
    audio,
  );
};
const render = async () => {
  try {
    const sounds = (await store("readonly", (all) => all.getAll())).sort((one, other) => one.kept - other.kept);
    window.soundctmKept = new Set(sounds.map((sound) => sound.id));
    for (const star of document.querySelectorAll("[data-keep]")) star.setAttribute("aria-pressed", String(isKept(star.dataset.keep)));
    if (!sounds.length) { root.replaceChildren(el("p", { class: "sc-empty" }, "Nothing kept yet. Press ★ to keep a sound in this browser."), say); return; }
    root.replaceChildren(
      el("ul", {}, ...sounds.map(item)),
      el("div", { class: "sc-buttons" }, button("Download all (zip)", "Download all kept sounds as a zip file", exportAll)), say,
    );
  } catch (error) {
    root.replaceChildren(el("p", { class: "sc-empty" }, "This browser cannot store sounds, perhaps because this is a private window."));
  }
};
watch("value", async () => {
  if (!props.value?.id) return;
  const sound = { ...props.value, kept: Date.now() };
  try {
    await store("readwrite", (sounds) => sounds.put(sound));
    say.textContent = "Kept.";
    props.value = {};  // so that keeping the same sound again after removing it is a change
  } catch {
    say.textContent = "This browser has no space for more sounds. Remove some from the shelf.";
  }
  render();
});
render();
