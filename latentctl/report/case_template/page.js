"use strict";
// Draws the page from the JSON in it. Texts go in as text nodes only, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const tip = document.getElementById("tip");
const HEAD = 24, TAIL = 12, MORE = 100, BINS = 240, FEW = 12, NARROW = 0.04, ROOMY = 0.25;
const many = data.cases.length > 1;
const traced = data.cases.filter(c => c.steps);
const rows = Math.max(0, ...traced.map(c => c.steps.length));
const top_ = traced.flatMap(c => c.steps).reduce((m, s) => Math.max(m, s[0]), 1);
const heat = h => Math.min(1, Math.max(0, h / top_));
const count = n => n.toLocaleString("en-US");
const short = x => String(Number(x.toPrecision(2)));
const letter = i => "AB"[i];

function el(tag, classes, ...children) {
  const made = document.createElement(tag);
  if (classes) made.className = classes;
  made.append(...children.filter(c => c !== null && c !== undefined && c !== ""));
  return made;
}
const hot = (made, h) => { made.classList.add("heat"); made.style.setProperty("--e", heat(h).toFixed(4)); return made; };
const prose = text => { const made = el("div", "prose", text); made.dir = "auto"; return made; };
const plural = (n, one) => `${count(n)} ${one}${n === 1 ? "" : "s"}`;

function spread(from, to) { // smallest and largest entropy of these rows, over all runs
  let low = Infinity, high = -Infinity;
  for (const c of traced) for (let k = from; k < Math.min(to, c.steps.length); k++) {
    low = Math.min(low, c.steps[k][0]); high = Math.max(high, c.steps[k][0]);
  }
  if (low > high) return "";
  return `, entropy ${short(low) === short(high) ? short(low) : `${short(low)}–${short(high)}`}`;
}

/* the signs that stand for white space, a little paler */
function token(text) {
  return text.split(/([·↵⇥]+)/).filter(Boolean).map(part => /^[·↵⇥]/.test(part) ? el("span", "ws", part) : part);
}

/* head */
function verdict(v) {
  const words = { correct: "✓ correct", wrong: "✗ wrong", error: "! grader failed" }[v] || "not judged yet";
  return el("span", `verdict ${v === "correct" || v === "wrong" ? v : "open"}`, words);
}

function card(c, i) {
  const values = c.steps ? c.steps.map(s => s[0]) : [];
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const number = (value, what) => el("div", "", el("b", "", value), el("span", "soft small", what));
  return el("div", "card",
    el("div", "who", many ? el("span", "letter", letter(i)) : null,
      el("span", "name", el("b", "", c.run), ` / ${c.stage} `, el("span", "soft small", c.sample)), verdict(c.verdict)),
    c.verdict ? prose(`${c.extracted === null ? "no answer found" : `read ${c.extracted}`}${c.reason ? `: ${c.reason}` : ""}`) : null,
    el("div", "numbers",
      number(count(c.latents), c.latents === 1 ? "latent step" : "latent steps"),
      c.tokens === null ? null : number(count(c.tokens), c.tokens === 1 ? "token of text" : "tokens of text"),
      values.length ? number(short(mean), "nats mean entropy") : null,
      c.logp === null ? null : number(c.logp.toFixed(2), "log-prob a token")),
    ...c.notes.map(n => el("div", "note", n)));
}

/* the chain */
const lead = data.cases.map(c => { // text that stands before a latent span, by the span's first step
  const found = new Map();
  let before = "";
  for (const part of c.chain) {
    if (typeof part === "string") before = part;
    else { if (before) found.set(part[0], before); before = ""; }
  }
  return found;
});

function cell(c, i, k) {
  const step = c.steps && c.steps[k];
  if (!step) return el("div", "cell");
  const bar = el("div", "bar", ...step[3].map(([text, p], n) => {
    const made = hot(el("span", "", ...(p < NARROW ? [] : token(text)), n || p < ROOMY ? null : el("span", "share", ` ${p.toFixed(2)}`)), step[0]);
    made.style.width = `${100 * Math.min(1, p)}%`;
    return made;
  }));
  const number = el("span", "h", step[0].toFixed(2));
  number.dataset.letter = letter(i);
  const said = lead[i].get(k);
  const made = el("div", "cell", said ? el("div", "said", `text: ${said.length > 160 ? `…${said.slice(-160)}` : said}`) : null,
    number, bar);
  made.tabIndex = -1;
  made.setAttribute("role", "gridcell");
  made.setAttribute("aria-label", `${many ? `${c.run}, ` : ""}latent step ${k + 1}, entropy ${step[0].toFixed(2)}: ${
    step[3].map(([t, p]) => `${t} ${p.toFixed(2)}`).join(", ")}`);
  made.dataset.run = i;
  made.dataset.step = k;
  return made;
}

function row(k) {
  const number = el("div", "n", count(k + 1));
  number.setAttribute("role", "rowheader");
  const made = el("div", "row", number, ...data.cases.map((c, i) => cell(c, i, k)));
  made.setAttribute("role", "row");
  made.id = `step-${k}`;
  return made;
}

function range(from, to) {
  const part = document.createDocumentFragment();
  for (let k = from; k < to; k++) part.append(row(k));
  return part;
}

function fold(from, to) {
  const made = el("div", "fold", el("span", "", `[${plural(to - from, "latent step")}${spread(from, to)}]`));
  const button = (words, a, b) => {
    const b_ = el("button", "", words);
    b_.type = "button";
    b_.onclick = () => { open(made, a, b); focusOn(data.cases.findIndex(c => c.steps && c.steps[a]), a); };
    made.append(b_);
  };
  if (to - from > MORE) button(`show ${MORE} more`, from, from + MORE);
  button(to - from > MORE ? "show all" : "show", from, to);
  made.dataset.from = from;
  made.dataset.to = to;
  return made;
}

function open(made, a, b) {
  const from = Number(made.dataset.from), to = Number(made.dataset.to);
  if (from < a) made.before(fold(from, a));
  made.before(range(a, b));
  if (b < to) made.before(fold(b, to));
  made.remove();
}

function reveal(k) {
  const made = [...document.querySelectorAll(".fold")].find(f => Number(f.dataset.from) <= k && k < Number(f.dataset.to));
  if (made) open(made, Math.max(Number(made.dataset.from), k - 10), Math.min(Number(made.dataset.to), k + 11));
}

/* One bar per step, or per equal group of steps with the largest entropy in it; runs share the axis. */
function strip(c, i) {
  const bins = Math.min(BINS, rows);
  const made = el("div", "strip");
  for (let b = 0; b < bins; b++) {
    const from = Math.floor(b * rows / bins), to = Math.max(from + 1, Math.floor((b + 1) * rows / bins));
    const high = c.steps.slice(from, to).reduce((m, s) => Math.max(m, s[0]), -1);
    const bar = el("i", high < 0 ? "none" : "");
    if (high >= 0) {
      hot(bar, high).style.height = `${Math.max(4, 100 * high / top_)}%`;
      bar.title = `${to - from > 1 ? `steps ${count(from + 1)}–${count(to)}, largest entropy` : `step ${count(from + 1)}, entropy`} ${high.toFixed(2)}`;
      bar.onclick = () => {
        const at = c.steps.findIndex((s, k) => k >= from && s[0] === high);
        reveal(at); focusOn(i, at);
      };
    }
    made.append(bar);
  }
  made.setAttribute("role", "img");
  made.setAttribute("aria-label", `entropy of ${plural(c.steps.length, "latent step")}${many ? ` of ${c.run}` : ""}`);
  return el("div", "", many ? el("div", "label", `${letter(i)}  ${c.run} / ${c.stage}`) : null, made);
}

function ended(c, i) {
  const how = !c.latents ? "no latent steps: an explicit chain" : c.latentEnd ? `ended by ${c.latentEnd}` : "";
  return el("div", "end", many ? `${letter(i)}: ` : "", c.latents ? `${plural(c.latents, "latent step")}, ` : "", how);
}

/* The beginning, and the end of each run; a gap too small to be worth a fold is shown. */
function folded() {
  const ends = traced.map(c => [Math.max(0, c.steps.length - TAIL), c.steps.length]).sort((a, b) => a[0] - b[0]);
  const parts = [];
  let done = 0;
  for (const [from, to] of [[0, Math.min(HEAD, rows)], ...ends]) {
    if (from - done > FEW) parts.push(fold(done, from));
    else if (from > done) parts.push(range(done, from));
    parts.push(range(Math.max(from, done), to));
    done = Math.max(done, to);
  }
  return parts;
}

function chain() {
  const made = el("section", `${many ? "two" : ""} ${rows > 200 ? "long" : ""}`, el("h2", "", "Latent chain"));
  made.id = "chain";
  if (traced.length) {
    const soft = traced.filter(c => c.input === "soft").length;
    const width = !soft ? "probability of a token" : soft === traced.length ? "weight of a mixed token" : "probability of a token (mixed: its weight)";
    made.append(
      el("div", "legend", "entropy", el("span", "", "0"), el("span", "ramp"), el("span", "", `${short(top_)} nats`),
        el("span", "said", `width = ${width}; hover or focus a step for all of it`)),
      rows > FEW ? el("div", "strips", ...data.cases.map((c, i) => c.steps ? strip(c, i) : null)) : "");
    const grid = el("div", "grid");
    grid.setAttribute("role", "grid");
    grid.setAttribute("aria-label", "latent steps");
    if (many) grid.append(el("div", "row head", el("div", "n"), ...data.cases.map((c, i) => el("div", "", el("span", "letter", letter(i)), ` ${c.run} / ${c.stage}`))));
    grid.append(...folded());
    made.append(grid);
  }
  made.append(el("div", "row", el("div", "n"), ...data.cases.map(ended)));
  return made;
}

/* the text */
function text(c, i) {
  const body = prose("");
  const spans = c.chain.filter(p => typeof p !== "string").length;
  for (const part of c.chain) {
    if (typeof part === "string") { body.append(part); continue; }
    const pill = el("button", "pill", plural(part[1] - part[0], "latent step"));
    pill.type = "button";
    pill.disabled = !c.steps;
    pill.onclick = () => { reveal(part[0]); focusOn(i, part[0]); };
    body.append(pill, spans === 1 && part[0] === 0 && c.chain[0] === part ? "\n" : "");
  }
  const facts = el("table", "", ...Object.entries(c.facts).map(([k, v]) => el("tr", "", el("td", "soft", k), el("td", "", v))));
  const prompt = el("details", "", el("summary", "", "Prompt and setting"), facts, c.prompt ? prose(c.prompt) : null);
  return el("div", "card", many ? el("div", "label", `${letter(i)}  ${c.run} / ${c.stage}`) : null, body,
    c.textEnd ? el("div", "end", `text ended by ${c.textEnd}`) : null, prompt);
}

/* the tree of a search: each answer in a line, its own text when opened */
function limb(b) {
  const sign = { correct: "✓", wrong: "✗", error: "!" }[b.verdict] || "?";
  const mark = el("span", `verdict ${b.verdict === "correct" || b.verdict === "wrong" ? b.verdict : "open"}`, sign);
  mark.setAttribute("aria-label", b.verdict || "not judged yet");
  mark.setAttribute("role", "img");
  const left = b.token === null ? "" : el("span", "left", el("b", "", ...token(b.token)), ` ${b.prob.toFixed(2)}`);
  const line = el("summary", "", el("span", "guide", b.guide), el("span", "which", String(b.index)), mark, left,
    el("span", "own", b.text.replace(/\s+/g, " ").slice(0, 240)));
  return el("details", b.this ? "limb this" : "limb", line,
    el("div", "label", `sample ${b.index}: ${b.extracted ? `read ${b.extracted}` : "no answer found"}${b.this ? "; its chain is above" : ""}`),
    prose(b.token === null ? b.text : `…${b.text}`));
}

function tree(c, i) {
  const doubles = c.tree.reduce((n, b) => n + b.doubles, 0);
  const made = el("div", "card tree", many ? el("div", "label", `${letter(i)}  ${c.run} / ${c.stage}`) : null,
    el("div", "label", `${plural(c.tree.length, "answer")} found${doubles ? `; ${count(doubles)} more would only repeat the first` : ""}. ` +
      "Each shows the token at which it left the answer above, and that token's probability; open one to read it."),
    ...c.tree.map(limb));
  return made;
}

function changedList() {
  if (!data.changed.length) return null;
  const list = el("details", "", el("summary", "", `${plural(data.changed.length, "verdict")} differ${data.changed.length === 1 ? "s" : ""} between the two runs`),
    el("table", "", ...data.changed.slice(0, 500).map(([id, a, b]) => el("tr", id.startsWith(`${data.id}#`) ? "shown" : "", el("td", "", id), el("td", "", `${a} → ${b}`)))));
  return list;
}

/* the distribution of one step */
let shown = null, mouse = "";
function show(at) {
  const c = data.cases[at.dataset.run], k = Number(at.dataset.step), step = c.steps[k];
  const line = (shown, p, rest) => {
    const bar = el("div", "p");
    if (!rest) hot(bar, step[0]);
    bar.style.width = `${Math.max(1, 100 * Math.min(1, p))}%`;
    return el("div", rest ? "t rest" : "t", el("span", "", ...shown), el("div", "", bar), el("span", "", p.toFixed(3)));
  };
  const rest = 1 - step[3].reduce((sum, [, p]) => sum + p, 0);
  tip.replaceChildren(
    el("div", "", el("b", "", `step ${count(k + 1)}`), many ? ` of ${c.run}` : "", ` · entropy ${step[0].toFixed(3)} nats`),
    ...step[3].map(([t, p]) => line(token(t), p, false)),
    rest > 0.0015 ? line(["others"], rest, true) : "",
    step[1] < 0.9995 ? el("div", "soft small", `the mixed tokens hold ${(100 * step[1]).toFixed(1)} % of the mass`) : "",
    step[2] ? el("div", "soft small", "noise was added to this step") : "");
  hide();
  shown = at;
  tip.hidden = false;
  at.setAttribute("aria-describedby", "tip");
  place();
}
function place() {
  const box = shown.getBoundingClientRect();
  if (box.bottom < 0 || box.top > innerHeight) return hide();
  const size = tip.getBoundingClientRect();
  const below = box.bottom + 6 + size.height <= innerHeight;
  tip.style.top = `${below ? box.bottom + 6 : Math.max(8, box.top - size.height - 6)}px`;
  tip.style.left = `${Math.max(8, Math.min(box.left + 60, innerWidth - size.width - 8))}px`;
}
function hide() {
  if (shown) shown.removeAttribute("aria-describedby");
  shown = null;
  tip.hidden = true;
}
const cellOf = event => event.target.closest ? event.target.closest(".cell[data-step]") : null;

function focusOn(i, k) {
  const at = document.querySelector(`#step-${k} [data-run="${i}"]`);
  if (!at) return false;
  document.querySelectorAll(".cell[tabindex='0']").forEach(c => { c.tabIndex = -1; });
  at.tabIndex = 0;
  at.scrollIntoView({ block: "nearest" });
  at.focus({ preventScroll: true });
  return true;
}

function onKey(event) {
  if (event.key === "Escape") return hide();
  const at = cellOf(event);
  if (!at) return;
  const i = Number(at.dataset.run), k = Number(at.dataset.step), last = data.cases[i].steps.length - 1;
  const moves = {
    ArrowDown: [i, k + 1], ArrowUp: [i, k - 1], Home: [i, 0], End: [i, last],
    ArrowRight: [i + 1, k], ArrowLeft: [i - 1, k],
  };
  const to = moves[event.key];
  if (!to || to[1] < 0 || !data.cases[to[0]] || !data.cases[to[0]].steps || to[1] >= data.cases[to[0]].steps.length) return;
  event.preventDefault();
  reveal(to[1]);
  focusOn(...to);
}

document.documentElement.style.setProperty("--runs", data.cases.length);
document.getElementById("page").append(
  el("p", "soft small", many ? data.place : `${data.cases[0].run} / ${data.cases[0].stage} · ${data.place}`),
  el("h1", "", data.id),
  el("p", "soft small", `chosen: ${data.words}`),
  ...data.notes.map(n => el("div", "note", n)),
  changedList() || "",
  el("h2", "", "Problem"),
  el("div", "card problem", el("div", "", el("div", "label", "question"), prose(data.question)),
    el("div", "gold", el("div", "label", "gold"), prose(data.gold))),
  el("h2", "", "Verdict"),
  el("div", "pair", ...data.cases.map(card)),
  chain(),
  el("h2", "", "Text"),
  el("div", "pair", ...data.cases.map(text)),
  ...(data.cases.some(c => c.tree.length) ? [el("h2", "", "Tree"),
    el("div", "pair", ...data.cases.map((c, i) => c.tree.length ? tree(c, i) : el("div", "card soft", "sampled, not searched")))] : []));

const first = document.querySelector(".cell[data-step]");
if (first) first.tabIndex = 0;
function onPlace(event) {
  const at = cellOf(event);
  if (!at) hide();
  else if (at !== shown) show(at);
}
document.addEventListener("mousemove", event => { // a page that scrolls under a mouse at rest moves it nowhere
  const now = `${event.screenX},${event.screenY}`;
  if (now !== mouse) onPlace(event);
  mouse = now;
});
document.addEventListener("mouseleave", hide);
document.addEventListener("focusin", onPlace);
document.addEventListener("focusout", hide);
document.addEventListener("scroll", () => { if (shown) place(); }, { passive: true });
document.addEventListener("keydown", onKey);
