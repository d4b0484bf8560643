// The page: draws the parts, and applies each event to what it drew.

import { Feed } from "./feed.js";

const OLD_MS = 3000;
const element = (id) => document.getElementById(id);
const parts = new Map(); // part id → { part, nodes }
let events = 0;
let lastMark = null;
const arrivals = []; // times of the last seconds' events

function draw({ part_id, part_name, brand, stock, prices }) {
  let known = parts.get(part_id);
  if (!known) {
    const node = element("card").content.firstElementChild.cloneNode(true);
    element("parts").append(node);
    known = { node, prices: new Map() };
    parts.set(part_id, known);
  }
  drawContent(known, { part_name, brand });
  if (stock) drawStock(known, stock);
  known.prices.clear();
  known.node.querySelector(".prices").replaceChildren();
  for (const price of prices) drawPrice(known, `price/${price.id}`, price);
}

function drawContent({ node }, { part_name, brand }) {
  node.querySelector("h2").textContent = part_name;
  node.querySelector(".brand").textContent = brand ?? "";
}

function drawStock({ node }, stock) {
  const level = node.querySelector(".level");
  const before = level.textContent === "" ? null : Number(level.textContent);
  level.textContent = stock.available_stock;
  const none = stock.available_stock === 0;
  node.classList.toggle("none", none);
  node.classList.toggle("low", !none && stock.is_low_stock);
  node.querySelector(".state").textContent = none ? "sold out" : stock.is_low_stock ? "running low" : "in stock";
  if (before !== null) flash(level, stock.available_stock - before);
}

function drawPrice({ node, prices }, key, { price_type, price, currency, is_active = true }) {
  let item = prices.get(key);
  if (!is_active) return dropPrice({ prices }, key);
  if (!item) {
    item = document.createElement("li");
    item.append(document.createElement("small"), document.createElement("span"));
    node.querySelector(".prices").append(item);
    prices.set(key, item);
  }
  const [label, amount] = item.children;
  label.textContent = price_type;
  const before = Number(item.dataset.price);
  item.dataset.price = price;
  amount.textContent = new Intl.NumberFormat(undefined, { style: "currency", currency }).format(price);
  if (item.dataset.drawn) flash(amount, Number(price) - before);
  item.dataset.drawn = "yes";
}

function dropPrice({ prices }, key) {
  prices.get(key)?.remove();
  prices.delete(key);
}

function flash(node, difference) {
  if (difference === 0) return;
  node.classList.remove("up", "down");
  void node.offsetWidth; // starts the animation again
  node.classList.add(difference > 0 ? "up" : "down");
}

function apply(event) {
  events += 1;
  arrivals.push(performance.now());
  const known = parts.get(event.data.part_id);
  if (!known) return; // a part that is not on this page
  const [family, verb] = event.type.split(".");
  const entry = event.id.split("/")[1];
  if (family === "stock" && verb !== "deleted") drawStock(known, event.data);
  if (entry === "part" && verb !== "deleted") drawContent(known, event.data);
  if (event.entity.startsWith("price/")) {
    if (verb === "deleted") dropPrice(known, event.entity);
    else drawPrice(known, event.entity, event.data);
  }
}

async function load() {
  const answer = await fetch("parts", { cache: "no-store" });
  if (!answer.ok) throw new Error(`the shop answered ${answer.status}`);
  const shop = await answer.json();
  shop.parts.forEach(draw);
  return shop.parts.map((part) => part.part_id);
}

function showAge() {
  const age = lastMark === null ? null : Math.max(0, Date.now() - Date.parse(lastMark.time));
  element("age").textContent = age === null ? "–" : age < 10_000 ? `${(age / 1000).toFixed(2)} s` : `${Math.round(age / 1000)} s`;
  element("age").classList.toggle("old", age === null || age > OLD_MS);
  element("events").textContent = events.toLocaleString();
  while (arrivals.length && arrivals[0] < performance.now() - 5000) arrivals.shift();
  element("rate").textContent = `${(arrivals.length / 5).toFixed(0)}/s`;
}

function showState(state, words) {
  element("connection").dataset.state = state;
  element("connection").textContent = words;
}

setInterval(showAge, 100);
const { web_socket } = await (await fetch("settings.json")).json();
const feed = new Feed(web_socket, {
  topics: ["stock", "prices", "content"],
  load,
  apply,
  mark(mark) {
    lastMark = mark;
    element("mark").textContent = mark.position;
  },
  state: showState,
});
feed.connect();
