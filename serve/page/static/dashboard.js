"use strict";

const $ = (id) => document.getElementById(id);
const EVERY = 2000; // ms between looks
const SLICES = 60; // of the charts
const SHOWN = 5; // classes of a version, most answered first
let token = "";

async function ask(path) {
  const response = await fetch(path, { headers: token ? { authorization: `Bearer ${token}` } : {} });
  const body = await response.json();
  if (response.status === 401) $("token-form").hidden = false;
  if (!response.ok) throw new Error(body.error);
  return body;
}

const percent = (p) => `${(100 * p).toFixed(1)} %`;
const number = (v) => (v >= 100 ? v.toFixed(0) : v.toFixed(1));
const ms = (v) => (v === null ? "–" : v >= 1000 ? `${(v / 1000).toFixed(1)} s` : `${number(v)} ms`);

function element(name, text, kind = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

// Newest at the right; a slice without a value is a gap, and what is too high for the figure nothing.
function chart(id, values) {
  const svg = $(id);
  const most = Math.max(...values.filter((v) => v !== null), 0);
  const bars = values.map((value, i) => {
    const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const height = most && value !== null ? (86 * value) / most : 0;
    const place = { x: 5 * (SLICES - values.length + i), y: 90 - height, width: 4, height };
    for (const [key, v] of Object.entries(place)) bar.setAttribute(key, v);
    return bar;
  });
  svg.replaceChildren(...bars);
  svg.setAttribute("aria-label", `${svg.previousElementSibling.textContent}, five minutes: at most ${number(most)}`);
  svg.previousElementSibling.dataset.most = most ? `at most ${number(most)}` : "none";
}

function rows(table, pairs) {
  table.replaceChildren(...pairs.map((cells) => {
    const row = document.createElement("tr");
    for (const cell of cells) row.append(cell instanceof Node ? cell : element("td", cell));
    return row;
  }));
}

function bar(share) {
  const cell = document.createElement("td");
  const made = element("div", "", "bar");
  made.style.width = `${100 * share}%`;
  cell.append(made);
  return cell;
}

// All three figures or none: the first alone would promise what an attacker who knows of it undoes.
function detects(alarm) {
  const says = (v) => (v === null ? "too few succeed" : v.toFixed(2));
  const { one, all, adaptive } = alarm.auroc;
  return `AUROC ${says(one)} where one member is attacked, ${says(all)} where all are, ${says(adaptive)} against an attacker who knows of it (n = ${alarm.n})`;
}

function facts(v) {
  const made = [["images", String(v.images)]];
  if (!v.images) return made;
  made.push(["mean confidence", percent(v.confidence)]);
  if (v.large !== null) made.push(["by the large network", percent(v.large)]);
  if (v.disagreement !== null) made.push(["disagreement of members", percent(v.disagreement)]);
  if (v.alarm) made.push(["on clean test images", percent(v.alarm.clean_mean)]);
  return made;
}

function shadow(counts) {
  return Object.entries(counts).map(([came, images]) => [`as a shadow: ${came}`, String(images)]);
}

function version(v) {
  const made = $("version-template").content.firstElementChild.cloneNode(true);
  made.querySelector("h3").textContent = `${v.model}, version ${v.version}: ${v.part}`;
  made.querySelector(".networks").textContent = v.networks.join(", ");
  made.querySelector(".detects").textContent = v.alarm ? `Disagreement as a sign of attacks: ${detects(v.alarm)}.` : "";
  const [table, classes] = made.querySelectorAll("tbody");
  rows(table, [...facts(v), ...(v.shadow ? shadow(v.shadow) : [])]);
  const top = Object.entries(v.classes || {}).sort((a, b) => b[1] - a[1]).slice(0, SHOWN);
  made.querySelector("h4").hidden = !top.length;
  rows(classes, top.map(([index, share]) => [v.class_names[index], percent(share), bar(share)]));
  return made;
}

function alarms(versions) {
  $("alarms").replaceChildren(...versions.filter((v) => v.alarm && v.alarm.raised).map((v) => element(
    "p",
    `${v.model}, version ${v.version}: its members' disagreement is ${percent(v.disagreement)} over ${v.images} images, and ${percent(v.alarm.clean_mean)} on ` +
      `clean test images. Inputs are strange, or attacked: ${detects(v.alarm)}.`,
    "alarm",
  )));
}

function show(told) {
  const now = told.slices.length > 1 ? told.slices.slice(-4, -1) : told.slices; // whole ones; the newest is still counted
  const seconds = told.slice_seconds * Math.max(1, now.length);
  const last = [...told.slices].reverse().find((s) => s.p50_ms !== null);
  $("rate").textContent = number(now.reduce((sum, s) => sum + s.requests, 0) / seconds);
  $("p50").textContent = ms(last ? last.p50_ms : null);
  $("p99").textContent = ms(last ? last.p99_ms : null);
  $("open").textContent = told.open;
  $("failed").textContent = told.slices.reduce((sum, s) => sum + s.failed, 0);
  $("processes").textContent = told.processes;
  chart("rates", told.slices.map((s) => s.requests / told.slice_seconds));
  chart("latencies", told.slices.map((s) => s.p99_ms));
  alarms(told.versions);
  $("versions").replaceChildren(...told.versions.map(version));
}

async function look() {
  try {
    show(await ask("/v1/status"));
    $("status").textContent = `Seen at ${new Date().toLocaleTimeString()}.`;
    setTimeout(look, EVERY);
  } catch (error) {
    $("status").textContent = `Not renewed: ${error.message}`;
    if ($("token-form").hidden) setTimeout(look, EVERY);
  }
}

$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value;
  $("token-form").hidden = true;
  look();
});
look();
