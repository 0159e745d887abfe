// The ranks of one group: a row for each, with its bar on a common time axis.

import { badge, clock, duration, el, hours, size, time, usd } from "./format.js";

const PARTS = {
  create: "volume made, no node yet",
  launch: "node launched",
  attach: "attached, system comes up",
  run: "commands run",
  up: "node has its volumes",
  gather: "gather",
  delete: "delete",
};
const HEADS = ["rank", "task", "try", "volume", "size", "type", "zone", "node", "age", "GiB-hours", "USD"];
const NUMBERS = new Set(["rank", "try", "size", "age", "GiB-hours", "USD"]);
const TICKS = 3;
const DAY_MS = 24 * 3600 * 1000;

export function legend() {
  return Object.entries(PARTS).map(([part, text]) =>
    el("span", {}, el("i", { class: `key p-${part}` }), text));
}

/** Return the table of a group's ranks. */
export function rankTable(answer) {
  const now = Date.parse(answer.now);
  const axis = axisOf(answer.ranks, now);
  const head = HEADS.map((name) => el("th", { scope: "col", class: NUMBERS.has(name) ? "n" : null }, name));
  const rows = answer.ranks.map((rank) => row(rank, axis, now));
  const body = el("tbody", {}, ...rows, ...answer.others.map((item) => other(item, now)));
  head.push(el("th", { scope: "col", class: "axis" }, ticks(axis)));
  return el("div", { class: "scroll" }, el("table", { class: "ranks" }, el("thead", {}, el("tr", {}, ...head)), body));
}

function row(rank, axis, now) {
  const orphan = [...rank.volumes, ...rank.nodes].some((item) => item.orphan);
  const node = rank.nodes[rank.nodes.length - 1];
  const created = rank.volumes.map((item) => item.created).filter(Boolean).sort()[0];
  const exit = rank.exit_code ? `exit code ${rank.exit_code}` : null;
  return el("tr", { class: orphan ? "orphan" : null },
    el("th", { scope: "row", class: "n" }, `${rank.rank}`),
    el("td", { title: exit }, rank.task ? badge(rank.task) : "–"),
    el("td", { class: "n" }, `${rank.attempt ?? "–"}`),
    el("td", {}, ...each(rank.volumes, thing)),
    el("td", { class: "n" }, ...each(rank.volumes, (item) => size(item.size_gib))),
    el("td", {}, ...each(rank.volumes, (item) => item.type || "default")),
    el("td", {}, rank.zone || "–"),
    el("td", {}, ...each(node ? rank.nodes : [], thing)),
    el("td", { class: "n", title: created ? time(created) : null },
      created ? duration((now - Date.parse(created)) / 1000) : "–"),
    el("td", { class: "n" }, hours(rank.gib_hours)),
    el("td", { class: "n", title: (rank.unknown || []).join("; ") }, usd(rank)),
    el("td", { class: "axis" }, bar(rank, axis, now)),
  );
}

function other(item, now) {
  const age = item.created ? duration((now - Date.parse(item.created)) / 1000) : "–";
  const role = item.role || item.kind;
  return el("tr", { class: item.orphan ? "orphan" : null },
    el("th", { scope: "row" }, role), el("td", { colspan: 6 }, item.kind === "volume" ? thing(item) : ""),
    el("td", {}, item.kind === "node" ? thing(item) : ""), el("td", { class: "n" }, age), el("td", { colspan: 3 }));
}

function each(items, show) {
  return items.length ? items.map((item) => el("div", { class: "line" }, show(item))) : ["–"];
}

/** Show a volume or node: its state, its name, and whether it is an orphan. */
function thing(item) {
  const told = [item.id, item.reason, item.trouble, item.created && `created ${time(item.created)}`,
    item.expiry && `expires ${time(item.expiry)}`].filter(Boolean).join("\n");
  return el("span", { class: "thing", title: told }, badge(item.state), " ", el("code", {}, item.name),
    item.orphan ? el("span", { class: "badge s-orphan" }, "orphan") : null);
}

/** Return from when until when the bars go, in milliseconds. */
function axisOf(ranks, now) {
  const spans = ranks.flatMap((rank) => rank.spans);
  const starts = spans.map(([, start]) => Date.parse(start));
  const ends = spans.map(([, , end]) => (end ? Date.parse(end) : now));
  if (!spans.length) return null;
  const from = starts.reduce((a, b) => Math.min(a, b));
  const to = ends.reduce((a, b) => Math.max(a, b), from + 1000);
  return { from, length: to - from };
}

function ticks(axis) {
  const line = el("div", { class: "ticks" });
  for (let at = 0; axis && at < TICKS; at += 1) {
    const tick = el("span", {}, clock(axis.from + (axis.length * at) / TICKS, axis.length > DAY_MS));
    tick.style.left = `${(100 * at) / TICKS}%`;
    line.append(tick);
  }
  return line;
}

function bar(rank, axis, now) {
  const track = el("div", { class: "track", role: "img" });
  const told = [];
  for (const [part, start, end] of rank.spans) {
    const from = Date.parse(start);
    const to = end ? Date.parse(end) : now;
    const text = `${PARTS[part] ?? part}: ${clock(from)}, ${duration((to - from) / 1000)}${end ? "" : " so far"}`;
    told.push(text);
    const piece = el("i", { class: `p-${PARTS[part] ? part : "up"} ${end ? "" : "open"}`, title: text });
    piece.style.left = `${(100 * (from - axis.from)) / axis.length}%`;
    piece.style.width = `${Math.max(0, (100 * (to - from)) / axis.length)}%`;
    track.append(piece);
  }
  track.setAttribute("aria-label", told.join("; ") || "nothing yet");
  return track;
}
