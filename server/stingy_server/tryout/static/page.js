"use strict";

// Every text of the model, of an audit or of a file is set as text, never as markup.
const csrf = document.querySelector('meta[name="csrf"]').content;
const find = (id) => document.getElementById(id);
const state = { setup: null, offers: new Map(), image: null, folder: null, busy: false, stale: false };
const IMAGE = /\.(png|jpe?g|webp)$/i;
const AT_ONCE = 4; // images of a folder that are sent at the same time
const SVG = "http://www.w3.org/2000/svg";

function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") made.className = value;
    else if (key === "text") made.textContent = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function shape(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function showError(text) {
  find("error").textContent = text;
  find("error").hidden = !text;
}

async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("Expected the command to run, got no response; start stingy try once more.");
  }
  if (response.ok) return response.json();
  const text = await response.text();
  let sentence = text.trim();
  try { sentence = JSON.parse(text).error; } catch { /* a refusal of the guard is plain text */ }
  throw new Error(sentence);
}

const post = (path, body) =>
  call(path, { method: "POST", headers: { "X-CSRF-Token": csrf }, body });

// --- the controls

function fillOptions(select, values, chosen) {
  select.replaceChildren(...values.map((value) => element("option", { value, text: value })));
  select.value = chosen;
}

function showOffer() {
  const offer = state.offers.get(find("policy").value);
  fillOptions(find("scores"), offer.forms, offer.scores);
  find("scores").disabled = offer.forms.length < 2;
  find("n").disabled = offer.n === null;
  find("n").value = offer.n ?? state.setup.classes.length;
  find("decimals").value = offer.decimals;
}

function showNumbers() {
  const offer = state.offers.get(find("policy").value);
  find("n-value").textContent = offer.n === null ? "—" : find("n").value;
  const graded = !["rank", "none"].includes(find("scores").value);
  find("decimals").disabled = !graded;
  find("decimals-value").textContent = graded ? find("decimals").value : "—";
}

function query() {
  const offer = state.offers.get(find("policy").value);
  const chosen = new URLSearchParams({
    policy: offer.name,
    scores: find("scores").value,
    decimals: find("decimals").value,
    tier: find("tier").value,
  });
  if (offer.n !== null) chosen.set("n", find("n").value);
  if (state.image !== null) chosen.set("image", state.image);
  if (state.folder !== null) chosen.set("folder", state.folder);
  return chosen;
}

// One request at a time: a slider that moves on asks once more with its latest value.
async function refresh() {
  showNumbers();
  state.stale = true;
  if (state.busy) return;
  state.busy = true;
  document.body.setAttribute("aria-busy", "true");
  try {
    while (state.stale) {
      state.stale = false;
      const view = await call(`/view?${query()}`);
      showError("");
      showPolicy(view.policy);
      showImage(view.image, view.policy);
      showFolder(view.folder, view.policy);
      showAudit(view.audit, view.policy);
    }
  } catch (error) {
    showError(error.message);
  } finally {
    state.busy = false;
    document.body.removeAttribute("aria-busy");
  }
}

// --- what leaves

function showPolicy(policy) {
  find("text").textContent = `policy = "${policy.text}"`;
  find("describe").textContent = policy.describe;
  const open = "hides nothing: a server serves it only with allow_open = true";
  const notes = policy.hides_nothing ? [open, ...policy.notes] : policy.notes;
  find("notes").replaceChildren(...notes.map((text) => element("li", { text })));
  find("notes").hidden = notes.length === 0;
  document.body.classList.toggle("no-tier", policy.tier.name === "full");
}

function numbers(count, of) {
  return count === 0 ? "nothing withheld" : `${count} of ${of} withheld`;
}

function leavesCell(text, column, scoreless) {
  const extra = column === "tier" ? " tier" : "";
  if (text === null || text === undefined) {
    return element("td", { class: `withheld${extra}` }, element("span", { text: "withheld" }));
  }
  return element("td", { class: `out${extra}`, text: text === "" ? scoreless : text });
}

function knowsCell(row) {
  const drawn = shape("svg", { "aria-hidden": "true" });
  drawn.append(shape("rect", { width: `${100 * row.bar}%`, height: "100%" }));
  return element("td", {}, element("div", { class: "knows" }, drawn, row.logit));
}

function bitsCell(name, bits, most, withheld, count) {
  const drawn = shape("svg", { class: "meter", "aria-hidden": "true" });
  drawn.append(shape("rect", { class: "all", width: "100%", height: "100%" }));
  drawn.append(shape("rect", { class: "part", width: `${(100 * bits) / most}%`, height: "100%" }));
  const cell = element("td", { class: name === "tier" ? "tier" : "" });
  cell.append(`${bits.toFixed(1)} of ${most}`, drawn);
  cell.append(element("small", { text: withheld === undefined ? "everything" : numbers(withheld, count) }));
  return cell;
}

function showImage(image, policy) {
  find("one-empty").hidden = image !== null;
  find("one-scroll").hidden = image === null;
  if (image === null) return;
  find("policy-head").textContent = policy.text;
  find("policy-form").textContent = formText(policy.form);
  find("tier-head").textContent = `+ tier ${policy.tier.name}`;
  find("tier-form").textContent = formText(policy.tier.form);
  const columns = ["policy", "tier", "label"];
  const rows = image.rows.map((row) => {
    const head = element("th", { scope: "row", text: row.label });
    const cells = columns.map((name) => leavesCell(row.leaves[name], name, "leaves"));
    return element("tr", {}, head, knowsCell(row), ...cells);
  });
  if (image.rest.count) rows.push(restRow(image.rest, columns));
  find("rows").replaceChildren(...rows);
  const foot = element("tr", {}, element("th", { scope: "row", text: "leak bits" }));
  const count = state.setup.classes.length;
  for (const name of ["model", ...columns]) {
    foot.append(bitsCell(name, image.bits[name], image.most_bits, image.withheld[name], count));
  }
  find("bits").replaceChildren(foot);
}

function restRow(rest, columns) {
  const names = rest.labels.join(", ") + (rest.count > rest.labels.length ? ", …" : "");
  const head = element("th", { scope: "row", text: `${rest.count} more ` });
  head.append(element("small", { text: names }));
  const knows = element("td", {}, element("small", { text: "known too" }));
  const cells = columns.map((name) => {
    const left = rest.leaves[name];
    return leavesCell(left ? `${left} more leave` : null, name, "");
  });
  return element("tr", { class: "rest" }, head, knows, ...cells);
}

function formText(form) {
  const words = {
    log_prob: "log-probability", prob: "probability", logit: "logit", rank: "rank", none: "no score",
  };
  return words[form] ?? form;
}

function showFolder(folder, policy) {
  find("many-scroll").hidden = folder === null;
  if (folder === null) return;
  find("many-empty").hidden = true;
  const rows = [["everything", "model"], [policy.text, "policy"], [`+ tier ${policy.tier.name}`, "tier"],
    ["label", "label"]];
  find("use-caption").textContent = `On ${folder.model.images} images`;
  find("use").replaceChildren(...rows.map(([title, name]) => {
    const use = folder[name];
    const values = [use.top1.toFixed(1), use.top5.toFixed(1), use.ece === null ? "–" : use.ece.toFixed(1),
      String(use.answer_bytes), use.bits.toFixed(1)];
    const made = element("tr", { class: name === "tier" ? "tier" : "" });
    made.append(element("th", { scope: "row", text: title }));
    made.append(...values.map((text) => element("td", { text })));
    return made;
  }));
}

// --- the audit

function signed(value) {
  return `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(1)}`;
}

function showAudit(audit, policy) {
  const parts = [];
  if (audit === null) {
    parts.push(element("p", { text: "No audit was given. Run stingy audit, then start this page with --audit DIR." }));
  } else {
    const titles = { policy: policy.text, tier: `${policy.text} under the tier ${policy.tier.name}` };
    const prints = { policy: policy.fingerprint, tier: policy.tier.fingerprint };
    for (const [name, found] of Object.entries(audit.found)) {
      parts.push(...auditedParts(titles[name], prints[name], found, audit.title));
    }
  }
  find("audited").replaceChildren(...parts);
}

function auditedParts(title, fingerprint, found, audit) {
  if (!found.length) {
    const line = element("p", { class: "unaudited" }, element("strong", { text: "Not audited: " }));
    line.append(`${title} [${fingerprint}] is not in the audit “${audit}”. Nothing is known of its leak.`);
    return [line];
  }
  return found.flatMap((endpoint) => {
    const line = element("p", {}, element("strong", { text: "Audited: " }));
    line.append(`${title} [${fingerprint}], as the endpoint ${endpoint.name}, model ${endpoint.model}, in “${audit}”.`);
    if (!endpoint.leaks.length) return [line, element("p", { text: "Every attack broke, so nothing was measured." })];
    return [line, strip(endpoint.leaks), element("p", { class: "small",
      text: "Points of accuracy that the best attack of each attacker gained over training without the API, with 95 % intervals. The audit's report.html has narrower ones, of paired runs." })];
  });
}

// Place a share of the gap between an attacker without the API (0) and the model (1).
function place(share) {
  return `${(100 * (Math.min(1.1, Math.max(-0.2, share)) + 0.2)) / 1.3}%`;
}

function axes() {
  const drawn = shape("svg", { "aria-hidden": "true" });
  for (const share of [0, 1]) {
    drawn.append(shape("line", { class: "axis", x1: place(share), x2: place(share), y1: 0, y2: "100%" }));
  }
  return drawn;
}

function stripHead() {
  const drawn = shape("svg", { "aria-hidden": "true" });
  for (const [share, words, anchor] of [[0, "no API", "start"], [1, "your model", "end"]]) {
    const text = shape("text", { x: place(share), y: "75%", "text-anchor": anchor });
    text.textContent = words;
    drawn.append(text);
  }
  return [element("div"), drawn, element("div")];
}

function strip(leaks) {
  const made = element("div", { class: "strip" }, ...stripHead());
  for (const leak of leaks) {
    const mark = leak.clear ? "clear " : "";
    const drawn = axes();
    if (leak.share !== null) {
      if (leak.low !== null) {
        const ends = { x1: place(leak.low / leak.gap), x2: place(leak.high / leak.gap) };
        drawn.append(shape("line", { class: `${mark}reach`, ...ends, y1: "50%", y2: "50%" }));
      }
      drawn.append(shape("circle", { class: `${mark}dot`, cx: place(leak.share), cy: "50%", r: 5 }));
    }
    const part = leak.share === null ? "" : `, ${Math.round(100 * leak.share)} % of the gap`;
    const range = leak.low === null ? "one seed" : `${signed(leak.low)} to ${signed(leak.high)}`;
    const text = leak.clear ? `${signed(leak.uplift)}${part}` : `${signed(leak.uplift)}, nothing measurable`;
    const about = element("div", { text: `${leak.attacker}: ${leak.attack}` });
    about.append(element("br"), element("small", { text: `${leak.queries.toLocaleString("en")} images` }));
    const result = element("div", {}, element("span", { class: `uplift ${leak.clear ? "clear-text" : ""}`, text }));
    result.append(element("br"), element("small", { text: range }));
    made.append(about, drawn, result);
  }
  return made;
}

// --- images

async function drawPreview(file) {
  const canvas = find("preview");
  const pen = canvas.getContext("2d");
  pen.clearRect(0, 0, canvas.width, canvas.height);
  canvas.setAttribute("aria-label", "No image yet");
  if (file === null) return;
  try {
    const picture = await createImageBitmap(file);
    const scale = Math.min(canvas.width / picture.width, canvas.height / picture.height);
    const width = Math.max(1, picture.width * scale), height = Math.max(1, picture.height * scale);
    pen.imageSmoothingEnabled = scale < 1;
    pen.drawImage(picture, (canvas.width - width) / 2, (canvas.height - height) / 2, width, height);
    canvas.setAttribute("aria-label", `The image ${file.name}`);
  } catch { /* the server says what is wrong with it */ }
}

async function openImage(file) {
  showError("");
  try {
    const answer = await post("/images", file);
    state.image = answer.image;
    find("hint").textContent = file.name;
    await drawPreview(file);
    await refresh();
  } catch (error) {
    state.image = null;
    await drawPreview(null);
    find("hint").textContent = "Drop an image here, or a folder of labelled images.";
    await refresh();
    showError(error.message);
  }
}

async function openFolder(files) {
  showError("");
  const known = new Set(state.setup.classes);
  const images = files.filter(({ path }) => IMAGE.test(path));
  const labelled = images
    .map(({ path, file }) => ({ file, label: path.split("/").at(-2) ?? "" }))
    .filter(({ label }) => known.has(label));
  if (!labelled.length) {
    const some = state.setup.classes.slice(0, 3).join(", ");
    showError(`Expected subfolders with the names of the classes, such as ${some}, got none with images.`);
    return;
  }
  const faults = [];
  let done = 0, added = 0;
  const began = performance.now();
  find("many-empty").hidden = true;
  find("skipped").hidden = true;
  find("progress").hidden = false;
  const count = () => {
    const rate = (1000 * done) / Math.max(1, performance.now() - began);
    find("bar").max = labelled.length;
    find("bar").value = done;
    find("count").textContent = `${done} of ${labelled.length} images, ${rate.toFixed(0)} a second`;
  };
  count();
  try {
    const { folder } = await post("/folders", "");
    const waiting = labelled.values();
    const work = async () => {
      for (const { file, label } of waiting) {
        try {
          await post(`/folders/${folder}?label=${encodeURIComponent(label)}`, file);
          added += 1;
        } catch (error) {
          faults.push(`${file.name}: ${error.message}`);
        }
        done += 1;
        count();
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    state.folder = added ? folder : null;
    await refresh();
  } catch (error) {
    faults.push(error.message);
  }
  const skipped = images.length - labelled.length;
  const lines = [];
  if (skipped) lines.push(`${skipped} images are in no folder of a class and were skipped.`);
  if (faults.length) lines.push(`${faults.length} images were refused, such as ${faults[0]}`);
  find("skipped").textContent = lines.join(" ");
  find("skipped").hidden = !lines.length;
}

// Read a dropped folder, which the browser lists in parts.
async function listFiles(entry, path) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [{ path: `${path}${entry.name}`, file }];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!part.length) return found;
    for (const each of part) found.push(...(await listFiles(each, `${path}${entry.name}/`)));
  }
}

async function dropped(event) {
  event.preventDefault();
  find("drop").classList.remove("over");
  const entry = event.dataTransfer.items[0]?.webkitGetAsEntry?.();
  if (entry?.isDirectory) await openFolder(await listFiles(entry, ""));
  else if (event.dataTransfer.files.length) await openImage(event.dataTransfer.files[0]);
}

// --- the start

function listen() {
  find("policy").addEventListener("change", () => { showOffer(); refresh(); });
  for (const id of ["scores", "tier"]) find(id).addEventListener("change", refresh);
  for (const id of ["n", "decimals"]) find(id).addEventListener("input", refresh);
  find("controls").addEventListener("submit", (event) => event.preventDefault());
  for (const id of ["file", "directory"]) {
    find(`choose-${id}`).addEventListener("click", () => find(id).click());
  }
  find("file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    event.target.value = "";
    if (file) openImage(file);
  });
  find("directory").addEventListener("change", (event) => {
    const files = [...event.target.files].map((file) => ({ path: file.webkitRelativePath, file }));
    event.target.value = "";
    openFolder(files);
  });
  find("copy").addEventListener("click", async () => {
    await navigator.clipboard.writeText(find("text").textContent);
    find("copy").textContent = "Copied";
    setTimeout(() => { find("copy").textContent = "Copy"; }, 1500);
  });
  for (const type of ["dragenter", "dragover"]) {
    addEventListener(type, (event) => { event.preventDefault(); find("drop").classList.add("over"); });
  }
  addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) find("drop").classList.remove("over");
  });
  addEventListener("drop", dropped);
}

async function start() {
  try {
    const setup = await call("/setup");
    state.setup = setup;
    state.offers = new Map(setup.policies.map((offer) => [offer.name, offer]));
    find("model").textContent =
      `${setup.name} ${setup.version} · ${setup.classes.length} classes · ${setup.size} pixels`;
    find("classes").textContent = setup.classes.length;
    find("n").max = setup.classes.length;
    fillOptions(find("policy"), [...state.offers.keys()], setup.policies[0].name);
    fillOptions(find("tier"), setup.tiers, "full");
    find("tier").disabled = setup.tiers.length < 2;
    showOffer();
    listen();
    await refresh();
  } catch (error) {
    showError(error.message);
  }
}

start();
