// How values become text and elements. Names come from clouds and DAGs, so they are only ever set as text.

/** Return an element; what is in it is text or elements, never markup. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Return a state as a coloured word; its class is one of a fixed set. */
const KNOWN = new Set([
  "attached", "available", "creating", "attaching", "detaching", "deleting", "error", "gone", "planned",
  "pending", "running", "ended", "live", "unknown", "success", "failed", "deferred", "queued", "upstream_failed",
]);
export function badge(state, number) {
  const text = number > 1 ? `${number} ${state}` : `${state}`;
  return el("span", { class: `badge ${KNOWN.has(state) ? `s-${state}` : ""}` }, text);
}

export function badges(counts) {
  const found = Object.entries(counts).map(([state, number]) => badge(state, number));
  return found.length ? found : ["–"];
}

/** Return seconds as people say them. */
export function duration(seconds) {
  const s = Math.max(0, seconds);
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 90) return `${Math.round(s)} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 48 * 3600) return `${(s / 3600).toFixed(1)} h`;
  return `${(s / 86400).toFixed(1)} days`;
}

// Made once: making a format takes longer than all the rest of a row.
const WHOLE = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const CLOCK = new Intl.DateTimeFormat(undefined, { hour12: false, timeStyle: "medium" });
const DATED = new Intl.DateTimeFormat(undefined, { hour12: false, dateStyle: "short", timeStyle: "short" });

export function time(iso) {
  const at = new Date(iso || Number.NaN);
  return Number.isNaN(at.getTime()) ? "–" : WHOLE.format(at);
}

export function clock(ms, dated = false) {
  return (dated ? DATED : CLOCK).format(ms);
}

export function size(gib) {
  if (gib === null || gib === undefined) return "–";
  if (gib < 1) return `${Math.round(gib * 1024)} MiB`;
  return `${Number(gib.toFixed(2))} GiB`;
}

/** Return GiB-hours: a short-lived small volume has few, but not none. */
export function hours(value) {
  if (!value) return "–";
  return value < 0.01 ? "< 0.01" : value.toFixed(2);
}

export function usd(row) {
  if (row.usd !== null && row.usd !== undefined) return row.usd > 0 && row.usd < 0.01 ? "< 0.01" : row.usd.toFixed(2);
  return row.unknown && row.unknown.length ? "unknown" : "–";
}
