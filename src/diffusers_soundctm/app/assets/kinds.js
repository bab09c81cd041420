// The kinds of sounds that the model knows, each with prompts that make it.
const root = element.querySelector(".sc-kinds");
const kind = ([name, prompts]) => [
  el("dt", {}, name),
  el("dd", { class: "sc-buttons" }, prompts.map((prompt) => button(prompt, `Draft: ${prompt}`, () => trigger("use", { prompt })))),
];
root.replaceChildren(el("dl", {}, Object.entries(props.value).map((one) => el("div", {}, kind(one)))));
