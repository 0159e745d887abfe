// The dialog that lists what would be removed, asks, removes, and tells what came of it.
// Airflow's iframe allows no confirm(), so it is an element of the page.

import { el } from "./format.js";

const dialog = document.getElementById("dialog");
const title = document.getElementById("dialog-title");
const text = document.getElementById("dialog-text");
const list = document.getElementById("dialog-list");
const confirm = document.getElementById("dialog-remove");
const cancel = document.getElementById("dialog-cancel");

function fill(heads, rows) {
  list.replaceChildren(
    el("thead", {}, el("tr", {}, ...heads.map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, ...rows.map((cells) => el("tr", {}, ...cells.map((cell) => el("td", {}, cell ?? "–"))))),
  );
}

/**
 * Ask for confirmation with every resource listed, and remove exactly those; resolves when the dialog is closed.
 * What the user sees and may not remove is listed after them, and stays.
 */
export async function askAndRemove(orphans, forbidden, api) {
  title.textContent = `Remove ${orphans.length} ${orphans.length === 1 ? "resource" : "resources"} for good?`;
  text.textContent = "Volumes are deleted with what is on them. Each is looked at once more before: what has come to "
    + "life meanwhile stays.";
  const row = (item, why) => [
    item.kind, el("code", {}, item.name), el("code", {}, item.id), item.conn_id, item.dag, item.run, why];
  fill(["kind", "name", "id", "connection", "DAG", "run", forbidden.length ? "why it goes, or stays" : "why it goes"], [
    ...orphans.map((item) => row(item, item.reason)),
    ...forbidden.map((item) => row(item, `stays: ${item.why}`)),
  ]);
  confirm.hidden = false;
  confirm.disabled = orphans.length === 0;
  cancel.textContent = "Cancel";
  const closed = new Promise((resolve) => { dialog.addEventListener("close", resolve, { once: true }); });
  confirm.onclick = () => remove(orphans, api);
  dialog.showModal();
  cancel.focus();
  await closed;
}

async function remove(orphans, api) {
  confirm.disabled = true;
  title.textContent = "Removing …";
  text.textContent = "Nodes go first, then volumes; on a cloud that takes up to some minutes.";
  const named = orphans.map(({ conn_id, kind, id, name }) => ({ conn_id, kind, id, name }));
  try {
    const answer = await api("api/remove", { resources: named });
    const removed = answer.resources.filter((row) => row.action === "removed").length;
    title.textContent = `${removed} removed, ${answer.resources.length - removed} not`;
    text.textContent = "";
    fill(["kind", "name", "outcome", "why"], answer.resources.map((row) => [
      row.kind, el("code", {}, row.name), row.action, row.reason]));
  } catch (error) {
    title.textContent = "It is not known what was removed";
    text.textContent = `${error.message}. Close this and look again: what is listed then is still there.`;
  }
  confirm.hidden = true;
  cancel.textContent = "Close";
}
