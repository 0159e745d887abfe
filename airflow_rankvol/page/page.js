// The page: the groups of all runs, or of the DAG run whose tab it is.

import { badge, badges, duration, el, hours, size, time, usd } from "./format.js";
import { legend, rankTable } from "./ranks.js";
import { askAndRemove } from "./remove.js";

const LIVE_MS = 5000;
const QUIET_MS = 15000;
const shown = (id) => document.getElementById(id);
const place = new URLSearchParams(location.search);
const scope = new URLSearchParams();
for (const name of ["dag", "run"]) if (place.get(name)) scope.set(name, place.get(name));
const ofRun = scope.has("run");
const sections = new Map();
let last = null;
let timer;
let looking = false;

/** Follow Airflow's theme where the page is framed by it; else the system's holds (see page.css). */
function followTheme() {
  try {
    const outside = window.parent.document.documentElement;
    if (window.parent === window) return;
    const follow = () => {
      const dark = outside.classList.contains("dark");
      document.documentElement.dataset.theme = dark || outside.classList.contains("light") ? (dark ? "dark" : "light") : "";
    };
    follow();
    new MutationObserver(follow).observe(outside, { attributes: true, attributeFilter: ["class"] });
  } catch { /* another origin frames it: the headers forbid that, and its theme is not ours to know */ }
}

async function api(path, body) {
  const request = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(path, { credentials: "same-origin", ...request });
  if (answer.ok) return answer.json();
  if (answer.status === 401) throw new Error("You are not logged in (any more): log in to Airflow, then reload");
  const told = await answer.json().catch(() => ({}));
  throw new Error(typeof told.detail === "string" ? told.detail : `Airflow answered ${answer.status}`);
}

const keyOf = (group) => JSON.stringify([group.dag, group.run, group.group]);

async function look() {
  if (looking) return;
  looking = true;
  clearTimeout(timer);
  let live = false;
  try {
    const answer = await api(`api/groups?${scope}`);
    live = answer.groups.some((group) => ["live", "running", "queued"].includes(group.run_state));
    await render(answer);
    shown("status").textContent = [`As of ${time(answer.now)}`, answer.places.join(", ")].filter(Boolean).join(" · ");
  } catch (error) {
    problems([{ conn_id: "", problem: error.message }]);
  }
  looking = false;
  timer = setTimeout(() => (document.hidden ? again() : look()), live ? LIVE_MS : QUIET_MS);
}

function again() {
  document.addEventListener("visibilitychange", look, { once: true });
}

async function render(answer) {
  last = answer;
  problems(answer.problems);
  const groups = answer.groups.filter(matches);
  shown("none").hidden = answer.groups.length > 0;
  const removable = answer.groups.reduce((sum, group) => sum + group.removable, 0);
  shown("remove").hidden = !(answer.may_remove && removable);
  const wanted = await Promise.all(groups.map((group) => section(group, answer)));
  if (answer !== last) return; // a newer one has come meanwhile
  const there = [...shown("groups").children];
  if (wanted.length !== there.length || wanted.some((each, at) => each !== there[at])) {
    shown("groups").replaceChildren(...wanted);
  }
}

function problems(found) {
  shown("problems").hidden = !found.length;
  shown("problems").replaceChildren(...found.map((each) =>
    el("li", {}, each.conn_id ? el("code", {}, each.conn_id) : null, each.conn_id ? ": " : null, each.problem)));
}

function matches(group) {
  const wanted = shown("filter").value.trim().toLowerCase();
  return !wanted || `${group.dag} ${group.group} ${group.run}`.toLowerCase().includes(wanted);
}

/** Return a group's section: the one that is there already, so that focus and scrolling stay where they are. */
async function section(group, answer) {
  const key = keyOf(group);
  const made = sections.get(key) ?? begin(key);
  made.group = group;
  made.details.classList.toggle("orphan", group.orphans > 0);
  made.summary.replaceChildren(...heading(group, answer).filter((part) => part !== null));
  if (made.details.open) await fill(made);
  return made.details;
}

function begin(key) {
  const body = el("div", { class: "ranks-of" });
  const summary = el("summary");
  const made = { body, summary, details: el("details", { class: "group", open: ofRun }, summary, body) };
  made.details.addEventListener("toggle", () => made.details.open && !body.firstChild && fill(made));
  sections.set(key, made);
  return made;
}

async function fill({ body, group }) {
  const { dag, run, group: name } = group;
  try {
    const answer = await api(`api/ranks?${new URLSearchParams({ dag, run, group: name })}`);
    const begun = performance.now();
    const table = rankTable(answer);
    const { scrollTop = 0, scrollLeft = 0 } = body.firstElementChild ?? {};
    body.replaceChildren(table);
    table.scrollTo(scrollLeft, scrollTop);
    body.dataset.renderMs = (performance.now() - begun).toFixed(1);
  } catch (error) {
    body.replaceChildren(el("p", { class: "problem" }, error.message));
  }
}

function heading(group, answer) {
  const age = group.begun ? duration((Date.parse(answer.now) - Date.parse(group.begun)) / 1000) : "–";
  return [
    el("span", { class: "name" }, el("b", {}, group.group), ` of ${group.dag}`),
    el("span", { class: "run", title: `began ${time(group.begun)}` }, group.run, " ", badge(group.run_state), ` ${age} ago`),
    fact("ranks", `${group.ranks || "–"}`),
    fact("tasks", ...badges(group.tasks)),
    fact("volumes", ...badges(group.volumes)),
    fact("nodes", ...badges(group.nodes)),
    group.size_gib ? fact("size", size(group.size_gib)) : null,
    group.gib_hours ? fact("GiB-hours", hours(group.gib_hours)) : null,
    group.gib_hours ? fact("USD", el("span", { title: group.unknown.join("; ") }, usd(group))) : null,
    group.orphans ? el("span", { class: "badge s-orphan" }, `${group.orphans} orphaned`) : null,
    group.elsewhere.length ? el("span", { class: "hint" }, `not looked at: connection ${group.elsewhere} is not in `
      + "[rankvol] conn_ids") : null,
  ];
}

function fact(name, ...what) {
  return el("span", { class: "fact" }, el("small", {}, name), ...what);
}

async function removeOrphans() {
  try {
    const answer = await api(`api/orphans?${scope}`);
    await askAndRemove(answer.orphans, answer.forbidden, api);
  } catch (error) {
    problems([{ conn_id: "", problem: error.message }]);
    return;
  }
  await look();
}

followTheme();
document.body.classList.toggle("of-run", ofRun);
shown("legend").replaceChildren(...legend());
shown("remove").addEventListener("click", removeOrphans);
shown("filter").addEventListener("input", () => last && render(last));
look();
