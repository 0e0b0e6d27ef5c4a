// The page: it reads the state every second, and sends a change when somebody confirms it.

import { setAttribute, setText, visible } from "./dom.js";
import { makeEntries } from "./entries.js";
import { KeysTable } from "./keys.js";
import { makeAlarms, makeModels, makeTiles, showServer } from "./panels.js";

const EVERY_MS = 1000;
const WAIT_MS = 10_000;
const byId = (id) => document.getElementById(id);

const SILENT = "The console does not answer. Is it still running?";
const ENDED = "This session has ended. For another address, run: stingy console token";

let csrf = null;
let kind = "all";
let readAt = 0; // of the state, on the clock of this page
let timer = null;
let reading = null;
let ended = false;

const table = new KeysTable({ act: confirmChange, changed: () => readNow() });
const showTiles = makeTiles(byId("tiles"));
const showAlarms = makeAlarms(byId("alarms"), byId("alarm-list"), confirmChange);
const showModels = makeModels(byId("models"), byId("no-models"));
const entries = makeEntries(byId("entries"));

/** Read the state, show it, and do so once more in a second. */
async function read() {
  clearTimeout(timer);
  reading?.abort();
  const own = new AbortController();
  reading = own;
  const query = new URLSearchParams({ entries: kind });
  if (table.open !== null) query.set("key", table.open);
  const limit = setTimeout(() => own.abort(), WAIT_MS);
  try {
    const response = await fetch(`/state?${query}`, { signal: own.signal, cache: "no-store" });
    if (response.status === 401) {
      ended = true;
      showFault(ENDED);
    } else if (response.ok) show(await response.json());
    else showFault(SILENT);
  } catch {
    if (reading !== own) return; // another read has begun
    showFault(SILENT);
  } finally {
    clearTimeout(limit);
  }
  if (!ended && reading === own) timer = setTimeout(read, EVERY_MS);
}

function readNow() {
  if (!ended) read();
}

function show(state) {
  csrf = state.csrf;
  showFault(state.fault);
  showMode(state.writer);
  if (state.keys === undefined) return; // nothing could be read yet
  readAt = performance.now() / 1000 - (state.now - state.read_at);
  const writes = state.writer !== null && state.fault === null;
  const context = {
    now: state.now,
    mostBits: state.most_bits,
    writes,
    names: new Map(state.keys.map((key) => [key.id, key.name])),
  };
  showServer(state.server, { text: byId("server"), dot: byId("server-dot") });
  showTiles(state.traffic, state.most_bits);
  table.update(state.keys, context);
  if (state.detail !== null) table.updateDetail(state.detail);
  showCount(showAlarms(state.keys, context));
  showModels(state.models);
  entries.update(state.entries, context);
  showAge();
}

function showFault(text) {
  const fault = byId("fault");
  fault.hidden = text === null;
  setText(fault, text ?? "");
  document.body.classList.toggle("stale", text !== null);
}

function showMode(writer) {
  setText(byId("mode"), writer === null ? "read-only" : `writes as ${visible(writer)}`);
}

function showCount(count) {
  const pill = byId("alarm-count");
  pill.hidden = count === 0;
  setText(pill, `${count} alarm${count === 1 ? "" : "s"}`);
  const title = count === 0 ? "Stingy console" : `(${count}) Stingy console`;
  if (document.title !== title) document.title = title;
}

function showAge() {
  if (readAt === 0) return;
  const seconds = Math.max(0, Math.round(performance.now() / 1000 - readAt));
  setText(byId("age"), `updated ${seconds} s ago`);
}

/** Let the user confirm a change of a key, and send it. */
function confirmChange(action, key) {
  const dialog = byId("dialog");
  const shown = visible(key.name);
  setText(byId("dialog-title"), action === "revoke" ? `Revoke ${shown}?` : `Release ${shown}?`);
  setText(
    byId("dialog-text"),
    action === "revoke"
      ? `The key ${key.id} opens nothing from now on, in every server. This cannot be undone.`
      : `The key ${key.id} gets whole answers within two seconds. The watch starts to count anew.`,
  );
  const button = byId("dialog-do");
  setText(button, action);
  setAttribute(button, "class", action === "revoke" ? "danger" : "primary");
  button.onclick = () => {
    dialog.close();
    send(action, key);
  };
  dialog.showModal();
}

async function send(action, key) {
  let fault = SILENT;
  try {
    const response = await fetch(`/keys/${encodeURIComponent(key.id)}/${action}`, {
      method: "POST",
      headers: { "X-CSRF-Token": csrf },
    });
    fault = response.status === 401 ? ENDED : (await response.json()).fault;
  } catch {
    // The console is silent, or sent no JSON.
  }
  const done = action === "revoke" ? "is revoked" : "is released";
  say(fault ?? `${visible(key.name)} ${done}.`, fault !== null);
  readNow();
}

let saying = null;

function say(text, isFault) {
  const done = byId("done");
  clearTimeout(saying);
  setText(done, text);
  done.classList.toggle("bad", isFault);
  done.classList.add("shown");
  saying = setTimeout(() => done.classList.remove("shown"), isFault ? 12_000 : 5000);
}

function chooseKind(event) {
  const chosen = event.target.dataset.kind;
  if (chosen === undefined) return;
  kind = chosen;
  for (const button of byId("kinds").children) setAttribute(button, "aria-pressed", String(button.dataset.kind === kind));
  readNow();
}

byId("kinds").addEventListener("click", chooseKind);
byId("alarm-count").addEventListener("click", () => table.filterState("alarm"));
byId("dialog-cancel").addEventListener("click", () => byId("dialog").close());
document.addEventListener("visibilitychange", () => document.hidden || readNow());
setInterval(showAge, 1000);
read();
