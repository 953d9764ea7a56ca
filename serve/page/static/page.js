"use strict";

const $ = (id) => document.getElementById(id);
const SAMPLES = 10;
const PAUSE = 150; // ms that the slider rests before models are asked
let token = "";
let demo = false;
let models = [];
let image = null; // base64
let latest = 0; // number of the newest round: answers of older ones are dropped
let timer = 0;

async function ask(path, options = {}) {
  const headers = { ...(options.headers || {}) };
  if (token) headers.authorization = `Bearer ${token}`;
  const response = await fetch(path, { ...options, headers });
  const body = await response.json();
  if (response.status === 401) $("token-form").hidden = false;
  if (!response.ok) throw new Error(body.error);
  return body;
}

function say(text) {
  $("status").textContent = text;
}

function percent(p) {
  return `${(100 * p).toFixed(1)} %`;
}

function robustness(model) {
  const r = model.robustness;
  if (r === "not measured") return "Robustness not measured.";
  const flags = r.flags.length ? ` Flags: ${r.flags.join(", ")}.` : "";
  return `Clean ${percent(r.clean_accuracy)}, robust ${percent(r.robust_accuracy)} (${r.threats.join(", ")}; ${r.attacks.join(", ")}; n = ${r.n}).${flags}`;
}

function panels() {
  const shown = models.filter((m) => m.versions.length);
  const count = demo ? Math.min(2, shown.length) : 1;
  const first = shown.map((m) => m.name);
  first.sort((a, b) => Number(b.includes("robust")) - Number(a.includes("robust")));
  $("models").replaceChildren();
  for (let i = 0; i < Math.min(count, shown.length); i++) {
    const panel = $("model-template").content.firstElementChild.cloneNode(true);
    const select = panel.querySelector("select");
    for (const m of shown) select.add(new Option(`${m.name} (version ${Math.max(...m.versions)})`, m.name));
    select.value = first[i];
    select.addEventListener("change", () => { describe(panel); update(); });
    $("models").append(panel);
    describe(panel);
  }
}

function describe(panel) {
  const model = models.find((m) => m.name === panel.querySelector("select").value);
  panel.querySelector(".robustness").textContent = robustness(model);
}

function bars(panel, top) {
  const rows = top.map((t) => {
    const row = document.createElement("tr");
    const bar = document.createElement("div");
    bar.className = "bar";
    bar.style.width = `${100 * t.probability}%`;
    row.append(...[0, 1, 2].map(() => document.createElement("td")));
    row.children[0].textContent = t.class;
    row.children[1].textContent = percent(t.probability);
    row.children[2].append(bar);
    return row;
  });
  panel.querySelector("tbody").replaceChildren(...rows);
}

function show(panel, answer, eps) {
  const verdict = panel.querySelector(".verdict");
  const pictures = panel.querySelector(".pictures");
  const attacked = eps > 0;
  bars(panel, attacked ? answer.adversarial : answer.top || answer.clean);
  pictures.hidden = !attacked;
  verdict.className = "verdict";
  if (!attacked) {
    verdict.textContent = "";
    return;
  }
  const [before, after] = [answer.clean[0], answer.adversarial[0]];
  const steps = `${answer.norm}, ${answer.steps} steps`;
  verdict.classList.add(answer.flipped ? "flips" : "holds");
  verdict.textContent = answer.flipped
    ? `Flips: ${before.class} becomes ${after.class} (${steps})`
    : `Holds: ${after.class}, ${percent(before.probability)} before, ${percent(after.probability)} now (${steps})`;
  panel.querySelector(".adversarial").src = answer.images.adversarial;
  panel.querySelector(".perturbation").src = answer.images.perturbation;
}

async function update() {
  if (!image || !models.length) return;
  const round = ++latest;
  const eps = demo ? Number($("eps").value) : 0;
  say("Asking the models ...");
  const said = [];
  try {
    for (const panel of [...$("models").children]) { // one after the other: attacks run one at a time
      const name = panel.querySelector("select").value;
      const path = `/v1/models/${encodeURIComponent(name)}:${eps > 0 ? "attack" : "classify"}`;
      const answer = await ask(path, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(eps > 0 ? { image, eps } : { image }),
      });
      if (round !== latest) return;
      show(panel, answer, eps);
      const top = (eps > 0 ? answer.adversarial : answer.top)[0];
      said.push(`${name}: ${top.class}, ${percent(top.probability)}${eps > 0 ? (answer.flipped ? ", flipped" : ", holds") : ""}`);
    }
    say(said.join(". "));
  } catch (error) {
    if (round === latest) say(error.message);
  }
}

function choose(blob, label) {
  const reader = new FileReader();
  reader.onload = () => {
    image = reader.result.slice(reader.result.indexOf(",") + 1);
    $("chosen").src = reader.result;
    $("chosen").alt = label;
    $("chosen").hidden = false;
    update();
  };
  reader.readAsDataURL(blob);
}

function samples() {
  for (let i = 0; i < SAMPLES; i++) {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    const picture = document.createElement("img");
    picture.src = `/static/samples/${i}.png`;
    picture.alt = `digit ${i}`;
    button.append(picture);
    button.addEventListener("click", async () => {
      press(button);
      choose(await (await fetch(picture.src)).blob(), picture.alt);
    });
    $("samples").append(button);
  }
}

function press(pressed) {
  for (const b of $("samples").children) b.setAttribute("aria-pressed", String(b === pressed));
}

async function start() {
  try {
    const answer = await ask("/v1/models");
    models = answer.models;
    demo = answer.demo;
    $("attack-controls").hidden = !demo;
    panels();
    say(models.length ? "Choose an image." : "No model is served yet.");
    update();
  } catch (error) {
    say(error.message);
  }
}

$("file").addEventListener("change", () => {
  if ($("file").files.length) {
    press(null);
    choose($("file").files[0], "your image");
  }
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  $("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    const file = kind === "drop" && event.dataTransfer.files[0];
    if (file) {
      press(null);
      choose(file, "your image");
    }
  });
}
$("eps").addEventListener("input", () => {
  $("eps-value").textContent = Number($("eps").value).toFixed(2);
  clearTimeout(timer);
  timer = setTimeout(update, PAUSE);
});
$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value;
  $("token-form").hidden = true;
  start();
});
samples();
start();
