"use strict";
const form = document.getElementById("filter");
const paths = [...document.querySelectorAll("article[data-path]")];
const ways = [...document.querySelectorAll("svg g[data-path]")];
const said = document.getElementById("shown");

function fits(path) {
  const { verdict, node, client } = Object.fromEntries(new FormData(form));
  return (!verdict || path.dataset.verdict === verdict)
    && (!node || JSON.parse(path.dataset.nodes).includes(node))
    && (!client.trim() || JSON.parse(path.dataset.clients).some((address) => address.includes(client.trim())));
}

function apply() {
  const shown = new Set();
  for (const path of paths) {
    path.hidden = !fits(path);
    if (!path.hidden) shown.add(path.dataset.path);
  }
  for (const way of ways) way.toggleAttribute("hidden", !shown.has(way.dataset.path));
  said.textContent = `${shown.size} of ${paths.length} paths shown`;
}

if (form) {
  form.hidden = false;
  form.addEventListener("input", apply);
  form.addEventListener("reset", () => setTimeout(apply));
  form.addEventListener("submit", (event) => event.preventDefault());
  apply();
}
addEventListener("beforeprint", () => {
  for (const each of document.querySelectorAll("details")) each.open = true;
});
