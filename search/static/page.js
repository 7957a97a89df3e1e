// The page of python -m search. Texts from the index are put in as text, never as HTML.
const $ = (id) => document.getElementById(id);
// Okabe and Ito's colours, which the colour-blind tell apart
const COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8c7a00", "#882255", "#6b6b6b"];
const KEYS = `labels of ${document.querySelector("h1").textContent}`;
const LOST = "No picture: this video is gone, has changed or cannot be decoded. After a change, run embed.py again, and start this page again";
const ENDED = "Nobody answers: python -m search has ended. Start it again, and load this page anew";
const CALM = matchMedia("(prefers-reduced-motion: reduce)");
const names = stored();
const state = { view: "spread", like: [], unlike: [], folder: "", after: "", before: "", each: "" };
const titles = new Map();  // id -> what a window is called
const chosen = new Map();  // id -> segment
let asked = 0, first = 0, map = null, begun = false;  // begun: a query that has no + yet

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && !name.startsWith("aria")) made[name] = value;
    else made.setAttribute(name.replace("aria", "aria-").toLowerCase(), value);
  }
  made.append(...children);
  return made;
}

function stored() {
  let found = [];
  try { found = JSON.parse(localStorage.getItem(KEYS)); } catch { /* none are kept */ }
  return Array.from({ length: 9 }, (_, i) => typeof found?.[i] === "string" ? found[i] : "");
}

function keep(key, name) {  // of other pages of this index, the names that they have given meanwhile stay
  Object.assign(names, stored().map((there, i) => there || names[i]));
  names[key] = name;
  try { localStorage.setItem(KEYS, JSON.stringify(names)); } catch { /* the names are asked for again */ }
}

async function ask(path, parameters = {}, options = {}) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== "" && value !== null));
  const answer = await fetch(`${path}?${query}`, options).catch(() => { throw new Error(ENDED); });
  if (!answer.ok) throw new Error(visible((await answer.json().catch(() => ({}))).error || `the server answered ${answer.status}`));
  return options.raw ? answer.arrayBuffer() : answer.json();
}

// what cannot be seen and turns text, so that \u202egnp.avi would look like iva.png, as an escape
const visible = (name) => name.replace(/[\p{Cc}\p{Bidi_Control}]/gu, (sign) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, "0")}`);
const apart = (name) => `\u2068${visible(name)}\u2069`;  // whatever direction its letters have, the rest keeps its own

function say(text, error = false) {
  $("said").textContent = text;
  $("said").className = error ? "error" : "";
}

// --- what is looked at, kept in the address, so that the back button works ----------------------------------

function write() {
  const own = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) if (String(value)) own.set(name, String(value));
  if (location.hash.slice(1) === own.toString()) show(); else location.hash = own.toString();
}

function read() {
  const own = new URLSearchParams(location.hash.slice(1));
  const words = (name) => (own.get(name) || "").split(",").filter(Boolean);
  Object.assign(state, { view: own.get("view") || "spread", like: words("like"), unlike: words("unlike"),
                         folder: own.get("folder") || "", after: own.get("after") || "", before: own.get("before") || "",
                         each: own.get("each") || "" });
  begun = false;
  if (![...$("folder").options].some((option) => option.value === state.folder)) state.folder = "";
  $("folder").value = state.folder;
  $("after").value = state.after;
  $("before").value = state.before;
  $("each").checked = Boolean(state.each);
}

const filters = () => ({ folder: state.folder, after: state.after, before: state.before });

async function show() {
  read();
  const turn = ++asked;
  first = 0;
  $("more").hidden = true;
  drawQuery();
  say("looking ...");
  try {
    if (state.view === "similar" && state.like.length) {
      const answer = await ask("/api/similar", { like: state.like.join(), unlike: state.unlike.join(), each: state.each, ...filters() });
      if (turn !== asked) return;
      first = answer.segments.length;
      answer.examples.forEach((segment) => titles.set(String(segment.id), title(segment)));
      for (const [id, name] of Object.entries(answer.uploads)) titles.set(id, name);
      drawQuery();
      list([["", answer.segments]], `${first} windows, the most similar first`);
      if (document.activeElement === $("found")) $("found").querySelector(".show")?.focus({ preventScroll: true });
      $("more").hidden = first < 60;
    } else if (state.view === "duplicates") {
      const answer = await ask("/api/duplicates", filters());
      if (turn !== asked) return;
      list(answer.groups.map((group, i) => [alike(group.length, group.length + answer.rest[i].length), group, answer.rest[i]]),
           answer.groups.length ? `${answer.groups.length} of ${answer.total} groups with a cosine of ${answer.least} or more, the largest first` : "There are no near-duplicates");
    } else if (state.view === "guesses") {
      const answer = await ask("/api/guesses", filters());
      if (turn !== asked) return;
      const accuracy = answer.accuracy === null ? "not known: label windows of more files" : answer.accuracy.toFixed(2);
      $("probe").textContent = `Accuracy on files that were left out: ${accuracy}`;
      list([["Least sure: label these", answer.unsure],
            ...answer.labels.map((name, i) => [`Surest of ${apart(name)}; ${answer.counts[i]} in all`, answer.surest[name]])],
           "Guesses of a linear probe for windows without labels, with their probability");
    } else if (state.view === "labelled") {
      const answer = await ask("/api/segments", { labelled: 1, ...filters() });
      if (turn !== asked) return;
      first = answer.segments.length;
      list([["", answer.segments]], `${answer.total} windows with labels`);
      $("more").hidden = first >= answer.total;
    } else {
      const answer = await ask("/api/segments", { spread: 1, ...filters() });
      if (turn !== asked) return;
      list([["", answer.segments]], `${answer.segments.length} of ${answer.total} windows, evenly spread`);
      $("more").hidden = answer.total <= answer.segments.length;
    }
  } catch (error) {
    if (turn === asked) { list([], ""); say(error.message, true); }
  }
  if (turn === asked) drawMap();
}

$("more").addEventListener("click", async () => {
  const turn = ++asked, similar = state.view === "similar";
  $("more").disabled = true;
  try {
    const answer = similar
      ? await ask("/api/similar", { like: state.like.join(), unlike: state.unlike.join(), each: state.each, ...filters(), count: first + 60 })
      : await ask("/api/segments", { first, ...filters(), labelled: state.view === "labelled" ? 1 : "" });
    if (turn !== asked) return;
    const found = similar ? answer.segments.slice(first) : answer.segments;
    if (first === 0) $("found").replaceChildren();
    $("found").append(grid(found));
    first += found.length;
    say(similar ? `${first} windows, the most similar first` : `${first} of ${answer.total} windows, in the order of the index`);
    $("more").hidden = similar ? !found.length || first >= answer.most : first >= answer.total;
    drawMap();
  } catch (error) { say(error.message, true); } finally { $("more").disabled = false; }
});

function drawQuery() {
  const named = (id) => (titles.has(id) ? apart(titles.get(id)) : `window ${id}`);
  const examples = (kind, sign) => state[kind].map((id) => element("li", {}, element("button", {
    type: "button", className: kind, ariaLabel: `take ${named(id)} out of the query`,
    onclick: () => { state[kind] = state[kind].filter((one) => one !== id); if (!state.like.length) state.view = "spread"; write(); },
  }, `${sign} ${named(id)} ×`)));
  const items = state.view === "similar" ? [...examples("like", "+"), ...examples("unlike", "−")] : [];
  $("query").replaceChildren(...(items.length ? [element("h2", {}, "Like, and not like"), element("ul", {}, ...items)] : []));
}

// --- windows ------------------------------------------------------------------------------------------------

const clock = (seconds) => `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(1).padStart(4, "0")}`;

const title = (segment) => `${visible(segment.file.split("/").pop())}, ${clock(segment.start)}`;

function list(groups, text) {
  $("found").replaceChildren(...groups.filter(([, found]) => found.length).flatMap(([title, found, rest = []]) => {
    const heading = element("h2", {}, title), cards = grid(found);
    return [...(title ? [heading] : []), cards, ...(rest.length ? [opener(heading, cards, rest)] : [])];
  }));
  say(text);
}

const alike = (shown, size) => `${shown < size ? `The first ${shown} of ${size}` : size} windows like each other`;

function opener(heading, cards, rest) {  // shows the rest of a group, a page at a time
  const button = element("button", { type: "button", onclick: async () => {
    button.disabled = true;
    try {
      const next = rest.slice(0, 60), answer = await ask("/api/segments", { ids: next.join() });
      rest = rest.slice(next.length);
      const made = answer.segments.map(card);
      cards.append(...made);
      heading.textContent = alike(cards.children.length, cards.children.length + rest.length);
      made[0].querySelector(".show").focus();
      if (!rest.length) button.remove();
      drawMap();
    } catch (error) { say(error.message, true); } finally { button.disabled = false; }
  } }, "More of this group");
  return element("div", { className: "buttons" }, button);
}

function grid(found) {
  return element("ul", {}, ...found.map(card));
}

function card(segment) {
  const id = String(segment.id), base = visible(segment.file.split("/").pop());
  const image = element("img", { loading: "lazy", src: `/still/${id}`, alt: "" });
  image.addEventListener("error", () => { image.alt = LOST; });
  let waiting = 0;  // no animation is made for a pointer that only passes
  const moving = (on) => () => {
    clearTimeout(waiting);
    if (!on) image.src = `/still/${id}`;
    else if (!CALM.matches) waiting = setTimeout(() => { image.src = `/moving/${id}`; }, 250);
  };
  const when = title(segment);
  titles.set(id, when);
  const text = [element("div", { className: "name", title: visible(segment.file) }, element("bdi", {}, base)),
                element("div", {}, `${clock(segment.start)} to ${clock(segment.end)}`)];
  if (segment.score !== undefined) text.push(element("div", {}, `cosine ${segment.score.toFixed(3)}`));
  if (segment.guess) text.push(element("div", {}, `${apart(segment.guess)}? ${(100 * segment.probability).toFixed(0)} %`));
  const label = element("span", { className: "label", hidden: !segment.label }, visible(segment.label));
  const box = element("li", { className: "card" },
    element("button", { type: "button", className: "show", ariaLabel: `${when}: show what is like it`,
      onclick: () => go([id], []), onmouseenter: moving(true), onmouseleave: moving(false), onfocus: moving(true),
      onblur: moving(false) }, image),
    element("div", { className: "text" }, ...text, label),
    element("div", { className: "row" },
      element("button", { type: "button", className: "like", title: "more like this (+)", ariaLabel: `more like ${when}`,
                          onclick: () => add("like", id) }, "+"),
      element("button", { type: "button", className: "unlike", title: "less like this (-)", ariaLabel: `less like ${when}`,
                          onclick: () => add("unlike", id) }, "−"),
      element("button", { type: "button", title: "play the seconds around it (p)", ariaLabel: `play ${when}`,
                          onclick: () => play(segment) }, "▶"),
      element("button", { type: "button", title: "choose it (space)", ariaLabel: `choose ${when}`, ariaPressed: "false",
                          onclick: () => choose(segment, box) }, "✓")));
  Object.assign(box, { segment, label });
  mark(box);
  return box;
}

function mark(box) {
  const on = chosen.has(box.segment.id);
  box.classList.toggle("chosen", on);
  box.querySelector(".row button:last-child").setAttribute("aria-pressed", String(on));
}

function choose(segment, box) {
  if (!chosen.delete(segment.id)) chosen.set(segment.id, segment);
  mark(box);
  count();
}

function count() {
  $("count").textContent = chosen.size ? `${chosen.size} chosen: number keys and Export are for these` : "";
}

function go(like, unlike) {
  Object.assign(state, { view: "similar", like, unlike });
  write();
  $("found").focus({ preventScroll: true });
  document.querySelector("main").scrollIntoView();
}

function add(kind, id) {
  const other = kind === "like" ? "unlike" : "like";
  if (state.view !== "similar" && !begun) state.like = state.unlike = [];
  state[other] = state[other].filter((one) => one !== id);
  if (!state[kind].includes(id)) state[kind] = [...state[kind], id];
  if (!state.like.length) {
    begun = true;
    state.view = "spread";
    $("more").hidden = true;
    say("Choose a window that they should be like, too", true);
    return;
  }
  go(state.like, state.unlike);
}

function play(segment) {
  $("playing").replaceChildren(element("bdi", {}, visible(segment.file)), `, ${segment.around.map(clock).join(" to ")}`);
  $("large").removeAttribute("src");  // it would show the one before until this one is made
  $("large").src = `/moving/${segment.id}?around=1`;
  $("large").alt = `animation of ${visible(segment.file)}`;
  $("player").showModal();
}

$("large").addEventListener("error", () => { $("large").alt = LOST; });
$("close").addEventListener("click", () => $("player").close());

// --- labels -------------------------------------------------------------------------------------------------

function drawLabels() {
  $("labels").replaceChildren(...Array.from({ length: 9 }, (_, i) => element("li", {}, element("input", {
    value: names[i] || "", maxLength: 60, ariaLabel: `label of key ${i + 1}`, placeholder: `label ${i + 1}`,
    onchange: (event) => { keep(i, event.target.value.trim()); },
  }), element("button", { type: "button", ariaLabel: `give the chosen windows label ${i + 1}`, onclick: () => label(i + 1) }, "give"))));
}

async function label(number, box) {
  const name = number === 0 ? "" : names[number - 1] || `label ${number}`;
  const ids = chosen.size ? [...chosen.keys()] : box ? [box.segment.id] : [];
  if (!ids.length) { say("Choose windows first", true); return; }
  if (name && !names[number - 1]) { keep(number - 1, name); drawLabels(); }
  $("probe").textContent = "";
  try {
    const answer = await ask("/api/label", {}, { method: "POST", headers: { "Content-Type": "application/json" },
                                               body: JSON.stringify({ ids, label: name }) });
    for (const one of document.querySelectorAll(".card")) if (answer.ids.includes(one.segment.id)) {
      one.segment.label = name;
      one.label.textContent = visible(name);
      one.label.hidden = !name;
      chosen.delete(one.segment.id);
      mark(one);
    }
    chosen.clear();
    count();
    drawMap();
    say(`${answer.ids.length} ${name ? `labelled ${apart(name)}` : "without label now"}; ${answer.labelled} have labels`);
  } catch (error) { say(error.message, true); }
}

$("train").addEventListener("click", () => { state.view = "guesses"; write(); });
$("labelled").addEventListener("click", () => { state.view = "labelled"; write(); });

// --- files, filters, export ---------------------------------------------------------------------------------

async function upload(file) {
  if (!file) return;
  const name = apart(file.name);
  if (file.size > 2 ** 29) { say(`${name}: a dropped file may have 512 MiB at most`, true); return; }
  say(`reading ${name} ...`);
  const form = new FormData();
  form.append("video", file);
  try {
    const answer = await ask("/api/upload", {}, { method: "POST", body: form });
    titles.set(answer.id, answer.name);
    go([answer.id], []);
  } catch (error) { say(`${name}: ${error.message}`, true); }
}

$("file").addEventListener("change", (event) => { upload(event.target.files[0]); event.target.value = ""; });
addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dropping"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  const files = event.dataTransfer.files;
  if (files.length > 1) say("Drop one file at a time", true); else upload(files[0]);
});
$("each").addEventListener("change", () => { state.each = $("each").checked ? "1" : ""; write(); });
for (const name of ["folder", "after", "before"]) {
  $(name).addEventListener("change", () => { state[name] = $(name).value; write(); });
}
$("spread").addEventListener("click", () => { state.view = "spread"; state.like = state.unlike = []; write(); });
$("twins").addEventListener("click", () => { state.view = "duplicates"; write(); });
$("none").addEventListener("click", () => { chosen.clear(); document.querySelectorAll(".card").forEach(mark); count(); });

async function take(name) {
  try {
    const text = await ask(`/export/${name}`, { ids: [...chosen.keys()].join() }, { raw: true });
    const link = element("a", { href: URL.createObjectURL(new Blob([text])), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);  // the browser may still read it
  } catch (error) { say(error.message, true); }
}
$("csv").addEventListener("click", () => take("selection.csv"));
$("cuts").addEventListener("click", () => take("cut.sh"));

// --- keys ---------------------------------------------------------------------------------------------------

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  if ($("player").open) return;
  const box = event.target.closest?.(".card"), boxes = [...document.querySelectorAll(".card")];
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: boxes.length && columns(boxes), ArrowUp: -(boxes.length && columns(boxes)) }[event.key];
  if (step && boxes.length && (box || event.target.id === "found")) {  // elsewhere they scroll
    event.preventDefault();
    const next = box ? boxes[boxes.indexOf(box) + step] : boxes[0];
    next?.querySelector(".show").focus();
  } else if (/^[0-9]$/.test(event.key)) label(Number(event.key), box);
  else if (!box) return;
  else if (event.key === "+") add("like", String(box.segment.id));
  else if (event.key === "-") add("unlike", String(box.segment.id));
  else if (event.key === "p") play(box.segment);
  else if (event.key === " " && event.target.classList.contains("show")) { event.preventDefault(); choose(box.segment, box); }
});

function columns(boxes) {
  const next = boxes.findIndex((box) => box.offsetTop !== boxes[0].offsetTop);
  return next > 0 ? next : boxes.length;
}

// --- the map ------------------------------------------------------------------------------------------------

async function loadMap() {
  const view = new DataView(await ask("/api/map", {}, { raw: true })), count = view.byteLength / 8;
  map = { x: new Float32Array(count), y: new Float32Array(count), id: new Uint32Array(count) };
  for (let i = 0; i < count; i++) {
    map.x[i] = view.getUint16(8 * i, true) / 65535;
    map.y[i] = view.getUint16(8 * i + 2, true) / 65535;
    map.id[i] = view.getUint32(8 * i + 4, true);
  }
  drawMap();
}

const canvas = $("map"), look = { x: 0.5, y: 0.5, zoom: 1 };  // what is in the middle, and how large
const sides = () => [look.zoom * (canvas.width - 24), look.zoom * (canvas.height - 24)];
const place = (i, [width, height] = sides()) => [canvas.width / 2 + (map.x[i] - look.x) * width,
                                                 canvas.height / 2 + (map.y[i] - look.y) * height];

function drawMap() {
  if (!map) return;
  const context = canvas.getContext("2d"), scale = sides(), style = getComputedStyle(document.documentElement);
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.globalAlpha = map.id.length > 5000 ? 0.35 : 0.7;
  context.fillStyle = style.getPropertyValue("--quiet");
  const size = map.id.length > 20000 ? 1.5 : map.id.length > 2000 ? 3 : 5;
  for (let i = 0; i < map.id.length; i++) {
    const [x, y] = place(i, scale);
    if (x > -size && y > -size && x < canvas.width + size && y < canvas.height + size) context.fillRect(x - size / 2, y - size / 2, size, size);
  }
  context.globalAlpha = 1;
  const seen = new Map([...document.querySelectorAll(".card")].map((box) => [box.segment.id, box.segment.label ? names.indexOf(box.segment.label) : -1]));
  const like = new Set(state.like.map(Number));
  for (let i = 0; i < map.id.length; i++) {
    const queried = like.has(map.id[i]);
    if (!queried && !seen.has(map.id[i])) continue;
    const [x, y] = place(i, scale);
    context.beginPath();
    context.arc(x, y, queried ? 7 : 4, 0, 7);
    context.fillStyle = queried ? COLOURS[5] : COLOURS[seen.get(map.id[i])] || style.getPropertyValue("--ink");
    context.fill();
  }
  if (!canvas.matches(":focus-visible")) return;
  context.fillStyle = style.getPropertyValue("--ink");  // what Enter chooses
  context.fillRect(canvas.width / 2 - 12, canvas.height / 2 - 1, 24, 2);
  context.fillRect(canvas.width / 2 - 1, canvas.height / 2 - 12, 2, 24);
}

function nearest(x, y) {
  let best = -1, least = 400;
  for (let i = 0; map && i < map.id.length; i++) {
    const [a, b] = place(i), distance = (a - x) ** 2 + (b - y) ** 2;
    if (distance < least) { least = distance; best = i; }
  }
  if (best < 0) say("There is no window at that point of the map"); else go([String(map.id[best])], []);
}

function at(event) {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) * canvas.width / box.width, (event.clientY - box.top) * canvas.height / box.height];
}

let waits = false, held = null, moved = false;
function redraw() {
  if (!waits) requestAnimationFrame(() => { waits = false; drawMap(); });
  waits = true;
}

function pan(x, y) {  // pixels of the canvas
  const [width, height] = sides();
  look.x = Math.min(Math.max(look.x - x / width, 0), 1);
  look.y = Math.min(Math.max(look.y - y / height, 0), 1);
  redraw();
}

function zoom(factor, [x, y] = [canvas.width / 2, canvas.height / 2]) {  // that point stays where it is
  const now = Math.min(Math.max(look.zoom * factor, 1), 200), [width, height] = sides(), away = 1 - look.zoom / now;
  const [right, down] = [(x - canvas.width / 2) / width * away, (y - canvas.height / 2) / height * away];
  Object.assign(look, now === 1 ? { x: 0.5, y: 0.5, zoom: 1 } : { x: look.x + right, y: look.y + down, zoom: now });
  canvas.classList.toggle("near", now > 1);
  pan(0, 0);
}

canvas.addEventListener("pointerdown", (event) => { held = at(event); moved = false; canvas.setPointerCapture(event.pointerId); });
canvas.addEventListener("pointermove", (event) => {
  if (!held || look.zoom === 1) return;
  const [x, y] = at(event);
  if (!moved && Math.hypot(x - held[0], y - held[1]) < 6) return;  // a hand that shakes
  moved = true;
  pan(x - held[0], y - held[1]);
  held = [x, y];
});
for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { held = null; });
canvas.addEventListener("click", (event) => { if (!moved) nearest(...at(event)); });
canvas.addEventListener("wheel", (event) => {
  if (!event.ctrlKey) return;  // it scrolls the page
  event.preventDefault();
  zoom(Math.exp(-event.deltaY / 200), at(event));
}, { passive: false });
canvas.addEventListener("keydown", (event) => {
  const act = { ArrowLeft: () => pan(60, 0), ArrowRight: () => pan(-60, 0), ArrowUp: () => pan(0, 60), ArrowDown: () => pan(0, -60),
                "+": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: () => zoom(0),
                Enter: () => nearest(canvas.width / 2, canvas.height / 2) }[event.key];
  if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  event.stopPropagation();
  act();
});
for (const end of ["focus", "blur"]) canvas.addEventListener(end, redraw);
$("nearer").addEventListener("click", () => zoom(1.5));
$("farther").addEventListener("click", () => zoom(1 / 1.5));
$("whole").addEventListener("click", () => zoom(0));

// --- start --------------------------------------------------------------------------------------------------

addEventListener("hashchange", show);
addEventListener("storage", (event) => {
  if (event.key !== KEYS) return;
  Object.assign(names, stored());
  document.querySelectorAll("#labels input").forEach((box, i) => { if (box !== document.activeElement) box.value = names[i]; });
});
document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); $("found").focus(); });  // the address is the query's
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawMap);
if (matchMedia("(max-width: 52rem)").matches) document.querySelectorAll("details.part").forEach((part) => { part.open = false; });
drawLabels();
ask("/api/overview").then((answer) => {
  $("folder").append(...answer.folders.map(([path, count]) => element("option", { value: path }, `${visible(path)} (${count})`)));
  if (answer.left_out) $("folder").append(element("option", { disabled: true }, `${answer.left_out} more folders are not listed`));
  for (const name of answer.labels.filter((one) => !names.includes(one))) {
    const own = Number(/^label ([1-9])$/.exec(name)?.[1]) - 1, free = names[own] === "" ? own : names.indexOf("");
    if (free >= 0) keep(free, name);
  }
  drawLabels();
  return Promise.all([show(), loadMap()]);
}).catch((error) => say(error.message, true));
