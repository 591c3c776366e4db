"use strict";
const MATHML = "http://www.w3.org/1998/Math/MathML";
const SIGNS = {correct: "✓", wrong: "✗", no_answer: "∅", truncated: "…", timeout: "t", error: "!"};
const MOST_MARKS = 2000, MOST_OPENED = 20, SHORTEST_QUERY = 2, SHORT_THINKING = 2000;
const id = (name) => document.getElementById(name);
const read = (name) => JSON.parse(id(name).textContent);
const words = (status) => status.replace(/_/g, " ");
const count = (number) => number.toLocaleString("en-US");
const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

// A report's links name their page, relative to this one. Encoded, it can name no scheme, and without a / no host.
const report = new URLSearchParams(location.search).get("report");
if (report && /^[^/].*\.html$/.test(report)) {
  id("back").firstChild.href = report.split("/").map(encodeURIComponent).join("/");
  id("back").hidden = false;
}

const formulas = read("formulas");
const runs = read("runs");  // the names of one run, or of two side by side
const problems = read("problems").map((problem, number) => ({
  ...problem, number, wanted: new Set(),
  samples: problem.runs.flatMap((run, place) => run.samples.map(([own, status]) => [own, status, place])),
}));
const byId = new Map(problems.map((problem) => [problem.id, problem]));
const chosen = new Set();

// Every text of a model goes through `make` and `rich`, and there only into text nodes.
function make(name, className, ...children) {
  const node = document.createElement(name);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

function tree([name, attributes, ...children]) {
  const node = document.createElementNS(MATHML, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children.map((child) => (typeof child === "string" ? child : tree(child))));
  return node;
}

function formula(number) {
  const [source, display, math] = formulas[number];
  if (!math) return make("code", "", source);
  const node = make("span", display ? "display" : "", tree(math));
  node.title = source;
  return node;
}

// Markdown as models write it: headings, lists, rules, tables, fenced code, bold, italics and code. All else stays text.
const BLOCKS = new Set(["display", "code", "table", "hr"]);
const INLINE = /(\*\*|`[^`\n]+`|(?<![\w*])\*(?![\s*\d])[^*\n]*[^\s*\d]\*(?![\w*]))/;

const isDisplay = (part) => typeof part === "number" && formulas[part][1] && formulas[part][2] !== null;

function rich(parts) {
  const lines = [[]], nodes = [];
  for (const part of parts) {
    if (isDisplay(part)) { lines.push([part], []); continue; }
    const [first, ...others] = typeof part === "number" ? [part] : part.split("\n");
    lines.at(-1).push(first);
    for (const other of others) lines.push([other]);
  }
  const block = (node) => {  // brings its own space: empty lines around it go
    while (nodes.at(-1) === "\n" || nodes.at(-1) === "") nodes.pop();
    nodes.push(node);
  };
  for (let at = 0; at < lines.length; at++) {
    if (nodes.at(-1) instanceof Element && BLOCKS.has(nodes.at(-1).className || nodes.at(-1).localName) && !plain(lines[at]).trim()) continue;
    if (isDisplay(lines[at][0])) { block(formula(lines[at][0])); continue; }
    const start = typeof lines[at][0] === "string" ? lines[at][0] : "";
    const end = /^\s*```/.test(start) ? lines.findIndex((line, place) => place > at && /^\s*```\s*$/.test(plain(line))) : -1;
    if (end > at) {
      block(make("pre", "code", lines.slice(at + 1, end).map(plain).join("\n")));
      at = end;
    } else if (/^\s*\|/.test(start) && /^\s*\|[\s:|-]*-[\s:|-]*$/.test(plain(lines[at + 1] || [""]))) {
      let last = at + 2;
      while (last < lines.length && /^\s*\|/.test(plain(lines[last]))) last++;
      block(drawTable([lines[at], ...lines.slice(at + 2, last)]));
      at = last - 1;
    } else if (lines[at].length === 1 && /^\s*([-*_])(\s*\1){2,}\s*$/.test(start)) {
      block(make("hr"));
    } else {
      nodes.push(...markdownLine(lines[at], start), ...(at < lines.length - 1 ? ["\n"] : []));
    }
  }
  return nodes;
}

function markdownLine(line, start) {
  const heading = /^\s{0,3}#{1,6}\s+/.exec(start), item = /^(\s*)[-*+]\s+/.exec(start);
  const rest = [start.slice((heading || item || [""])[0].length), ...line.slice(1)];
  if (heading) return [make("strong", "heading", ...inline(rest))];
  return item ? [item[1] + "• ", ...inline(rest)] : inline(line);
}

function inline(line) {
  const pieces = line.flatMap((part) => (typeof part === "number" ? [part] : part.split(INLINE)));
  const marks = pieces.filter((piece) => piece === "**").length;
  const nodes = [];
  let bold = null, left = marks - (marks % 2);
  for (const piece of pieces) {
    if (piece === "**" && left > 0) {
      left--;
      bold = bold ? (nodes.push(bold), null) : make("strong");
      continue;
    }
    const node = typeof piece === "number" ? formula(piece)
      : /^`.+`$/.test(piece) ? make("code", "", piece.slice(1, -1))
      : /^\*[^*].*\*$/.test(piece) ? make("em", "", piece.slice(1, -1)) : piece;
    if (node !== "") bold ? bold.append(node) : nodes.push(node);
  }
  return nodes;
}

function drawTable(rows) {
  const cells = (line) => {
    const found = [[]];
    for (const part of line) {
      const [first, ...others] = typeof part === "number" ? [part] : part.split("|");
      found.at(-1).push(first);
      for (const other of others) found.push([other]);
    }
    return found.slice(1, plain(found.at(-1)).trim() ? undefined : -1);
  };
  const drawn = rows.map((line, at) => make("tr", "", ...cells(line).map((cell) =>
    make(at ? "td" : "th", "", ...inline(cell.map((part) => (typeof part === "string" ? part.trim() : part)))))));
  return make("table", "", make("tbody", "", ...drawn));
}

const plain = (parts) => parts.map((part) => (typeof part === "number" ? formulas[part][0] : part)).join("");

function leftOut(number) {
  return make("p", "cut", `… ${plural(number, "character")} left out, all of them in samples.jsonl`);
}

// #PROBLEM, #PROBLEM/SAMPLE, or of two runs #PROBLEM/RUN/SAMPLE
const link = (problem, ...sample) => "#" + [encodeURIComponent(problem.id), ...sample.slice(runs.length > 1 ? 0 : 1)].join("/");

function anchor(className, href, text) {
  const node = make("a", className, text);
  node.href = href;
  return node;
}

function pair(name, parts) {
  return make("div", "pair", make("span", "", name), make("span", "prose", ...rich(parts)));
}

function mostFrequent(run, answer, times, answered, status) {
  const told = withStatus(make("span", "status", words(status)), status);
  if (times === 1) return make("div", "pair", make("span", "", runs.length > 1 ? `answers of ${runs[run]}` : "answers"),
    make("span", "", `all ${answered} differ`));
  const name = runs.length > 1 ? `most frequent answer of ${runs[run]}` : "most frequent answer";
  return make("div", "pair", make("span", "", name), make("span", "prose", ...rich(answer)),
    make("span", "", `${times} of ${answered}`), told);
}

function withStatus(node, status) {
  node.dataset.status = status;
  node.dataset.sign = SIGNS[status] || "?";
  return node;
}

const drawnBy = (problem, run) => problem.samples.filter(([, , own]) => run === undefined || own === run);

// The share of right samples, of one run or of all.
function share(problem, run) {
  const drawn = drawnBy(problem, run);
  return drawn.length ? drawn.filter(([, status]) => status === "correct").length / drawn.length : -1;
}

function shareText(problem, run) {
  const all = drawnBy(problem, run).length;
  if (!all) return "not sampled";
  return `${Math.round(share(problem, run) * all)} of ${all} samples correct, ${Math.round(100 * share(problem, run))} %`;
}

function drawProblem(problem) {
  problem.strip = problem.samples.map(([, status]) => {
    const square = withStatus(make("span", "", SIGNS[status] || "?"), status);
    square.title = words(status);
    return square;
  });
  problem.opener = make("summary", "", ...runs.map((name, run) => drawShare(problem, name, run)));
  problem.details = make("details", "samples", problem.opener);
  problem.details.addEventListener("toggle", () => { open(problem); mark(); });
  const heading = make("h2", "", anchor("", link(problem), problem.id));
  problem.node = make("article", "problem", heading, make("div", "prose", ...rich(problem.problem)));
  if (problem.gold) problem.node.append(pair("gold", problem.gold));
  problem.runs.forEach(({most}, run) => { if (most) problem.node.append(mostFrequent(run, ...most)); });
  problem.node.append(problem.details);
}

function drawShare(problem, name, run) {
  const strip = make("span", "strip", ...problem.strip.filter((_, at) => problem.samples[at][2] === run));
  strip.setAttribute("aria-hidden", "true");
  const told = make("span", "share", shareText(problem, run));
  return make("span", "run", ...(runs.length > 1 ? [make("b", "", name)] : []), told, strip);
}

function open(problem) {
  if (problem.drawn) return;
  problem.drawn = read("samples-" + problem.number).map((sample, at) => drawSample(problem, sample, ...problem.samples[at]));
  if (runs.length > 1) problem.details.append(make("div", "columns", ...columns(problem)));
  else problem.details.append(...problem.drawn);
  showSamples(problem);
}

// Samples of one number stand beside each other; where there is no room, those of the second run below the first's.
function columns(problem) {
  return runs.flatMap((name, run) => {
    const nodes = [make("h3", "", name), ...problem.drawn.filter((_, at) => problem.samples[at][2] === run)];
    nodes.forEach((node, row) => {
      node.classList.toggle("second", run === 1);
      node.style.gridRow = row + 1;
    });
    return nodes;
  });
}

function drawSample(problem, sample, number, status, run) {
  const facts = make("div", "facts",
    anchor("number", link(problem, run + 1, number), "#" + number),
    withStatus(make("span", "status", words(status)), status),
    make("span", "", plural(sample.tokens, "token")), make("span", "", "seed " + sample.seed));
  const node = withStatus(make("section", "sample", facts), status);
  node.tabIndex = -1;
  node.setAttribute("aria-label", `sample ${number}${runs.length > 1 ? ` of ${runs[run]}` : ""}, ${words(status)}`);
  if (sample.answer) node.append(pair("answer", sample.answer));
  if (sample.thinking) node.append(drawThinking(...sample.thinking));
  const [first, cut, last] = sample.text;
  if (plain(first)) node.append(make("div", "prose text", ...rich(first)));
  if (cut) node.append(leftOut(cut), make("div", "prose text", ...rich(last)));
  return node;
}

function drawThinking(first, cut, last) {
  const length = first.length + cut + last.length;
  const node = make("details", "thinking", make("summary", "", `thinking, ${plural(length, "character")}`));
  node.searched = `${first}\n${last}`.toLowerCase();
  node.fill = () => {
    if (node.children.length > 1) return;
    node.append(make("pre", "", first));
    if (cut) node.append(leftOut(cut), make("pre", "", last));
  };
  node.addEventListener("toggle", () => { node.fill(); mark(); });
  if (runs.length > 1 && length <= SHORT_THINKING) { node.fill(); node.open = true; }  // side by side it is compared
  return node;
}

// What the search looks through, made when it is first needed: the problem's own text, then each sample's.
function texts(problem) {
  problem.texts ||= [
    [problem.id, plain(problem.problem), plain(problem.gold || [])].join("\n").toLowerCase(),
    ...read("samples-" + problem.number).map((sample) => {
      const [first, , last] = sample.text;
      const [thought, , conclusion] = sample.thinking || ["", 0, ""];
      return [plain(sample.answer || []), thought, conclusion, plain(first), plain(last)].join("\n").toLowerCase();
    }),
  ];
  return problem.texts;
}

// Which of two runs have solved a problem, which is: more than half of their samples are right.
const solvedBy = (problem) => ["neither", "first", "second", "both"][(share(problem, 0) > 0.5) + 2 * (share(problem, 1) > 0.5)];

function filter(problem, query) {
  problem.wanted.clear();
  if (id("solved").value && solvedBy(problem) !== id("solved").value) return false;
  const [own, ...others] = query ? texts(problem) : [""];
  const all = own.includes(query);
  problem.samples.forEach(([, status], at) => {
    if ((!chosen.size || chosen.has(status)) && (all || others[at].includes(query))) problem.wanted.add(at);
  });
  return problem.wanted.size > 0 || (all && !chosen.size);
}

function showSamples(problem) {
  problem.strip.forEach((square, at) => square.classList.toggle("off", !problem.wanted.has(at)));
  problem.drawn?.forEach((node, at) => { node.hidden = !problem.wanted.has(at); });
}

const query = () => id("query").value.trim().toLowerCase();

// The filters stand in the page's address, so that a link leads to what one sees.
function keepInAddress() {
  const values = {q: id("query").value.trim(), status: [...chosen].join(), solved: id("solved").value, order: id("order").value};
  const kept = new URLSearchParams(Object.entries(values).filter(([name, value]) => value && (name !== "order" || value !== "id")));
  const search = kept.size ? "?" + kept : "";
  if (search !== location.search) history.replaceState(null, "", (search || location.pathname) + location.hash);
}

function readAddress() {
  const given = new URLSearchParams(location.search);
  id("query").value = given.get("q") || "";
  for (const status of (given.get("status") || "").split(",")) if (Object.hasOwn(SIGNS, status)) chosen.add(status);
  for (const name of ["order", "solved"]) {
    if ([...id(name).options].some((option) => option.value === given.get(name))) id(name).value = given.get(name);
  }
}

// An empty page says what it looked for, which may be another text than was meant.
function nothingFound() {
  const statuses = [...chosen].map(words).join(" or "), text = id("query").value.trim();
  const among = id("solved").value ? `${text || statuses ? ", among those " : ": none is "}${SOLVED[id("solved").value]()}` : "";
  if (!text) return (statuses ? `: no sample is ${statuses}` : "") + among;
  return `: no text ${statuses ? `of a ${statuses} sample ` : ""}holds “${text}”${among}`;
}

function update() {
  let shown = 0, samples = 0;
  for (const problem of problems) {
    const visible = filter(problem, query());
    problem.node.hidden = !visible;
    shown += visible;
    samples += problem.wanted.size;
    showSamples(problem);
  }
  for (const chip of id("chips").children) chip.setAttribute("aria-pressed", chosen.has(chip.dataset.status));
  const all = problems.reduce((sum, problem) => sum + problem.samples.length, 0);
  id("shown").textContent = shown === problems.length && samples === all
    ? `${plural(shown, "problem")}, ${plural(samples, "sample")}`
    : `${count(shown)} of ${plural(problems.length, "problem")}, ${count(samples)} of ${plural(all, "sample")}${shown ? "" : nothingFound()}`;
  keepInAddress();
  openHits();
  mark();
}

// Opens what was searched for, of very many hits the first ones; a problem that a search has opened closes with it.
function openHits() {
  const wanted = query();
  let left = wanted.length < SHORTEST_QUERY ? 0 : MOST_OPENED;
  for (const problem of problems) {
    const hit = !problem.node.hidden && left > 0 && !texts(problem)[0].includes(wanted) && problem.wanted.size > 0;
    left -= hit;
    if (hit && !problem.details.open) problem.opened = true;
    if (hit) { open(problem); problem.details.open = true; }
    else if (problem.opened) problem.opened = problem.details.open = false;
    for (const node of hit ? problem.details.querySelectorAll(".sample:not([hidden]) .thinking") : []) {
      if (node.searched.includes(wanted)) { node.fill(); node.open = true; }
    }
  }
}

// Marks what was searched for in all that is open, without touching the nodes.
function mark() {
  const wanted = query(), ranges = [];
  for (const node of document.querySelectorAll(".thinking")) {
    node.classList.toggle("hit", wanted !== "" && node.searched.includes(wanted));
  }
  if (!CSS.highlights) return;
  const walker = document.createTreeWalker(id("list"), NodeFilter.SHOW_TEXT);
  while (wanted && ranges.length < MOST_MARKS && walker.nextNode()) {
    const text = walker.currentNode.data.toLowerCase();
    if (text.length !== walker.currentNode.length) continue;
    for (let at = text.indexOf(wanted); at >= 0 && ranges.length < MOST_MARKS; at = text.indexOf(wanted, at + wanted.length)) {
      // static, because a browser keeps live ranges right at each move of a node: sorting 1,000 problems took 40 s
      const node = walker.currentNode;
      ranges.push(new StaticRange({startContainer: node, startOffset: at, endContainer: node, endOffset: at + wanted.length}));
    }
  }
  CSS.highlights.set("found", new Highlight(...ranges));
}

function sort() {
  const order = id("order").value, names = new Intl.Collator("en", {numeric: true});
  const gain = (problem) => share(problem, 1) - share(problem, 0);
  const value = {id: () => 0, low: (problem) => share(problem), high: (problem) => -share(problem), second: (problem) => -gain(problem), first: gain}[order];
  problems.sort((a, b) => value(a) - value(b) || names.compare(a.id, b.id));
  id("list").append(...problems.map((problem) => problem.node));
  keepInAddress();
}

function clear() {
  id("query").value = id("solved").value = "";
  chosen.clear();
  update();
}

const SOLVED = {
  first: () => `over half right with ${runs[0]} only`, second: () => `over half right with ${runs[1]} only`,
  both: () => "over half right with both", neither: () => "over half right with neither",
};

// What only two runs need: which of them has solved a problem, and where one gains on the other.
function drawPairTools() {
  id("solved").hidden = runs.length < 2;
  if (runs.length < 2) return;
  for (const [kind, told] of Object.entries(SOLVED)) {
    const number = problems.filter((problem) => solvedBy(problem) === kind).length;
    id("solved").append(new Option(`${told()} (${count(number)})`, kind));
  }
  id("order").append(new Option(`gain of ${runs[0]} first`, "first"), new Option(`gain of ${runs[1]} first`, "second"));
}

function drawChips() {
  const counts = new Map(Object.keys(SIGNS).map((status) => [status, 0]));
  for (const problem of problems) for (const [, status] of problem.samples) counts.set(status, (counts.get(status) || 0) + 1);
  for (const [status, number] of counts) {
    if (!number) continue;
    const chip = withStatus(make("button", "", words(status), make("b", "", count(number))), status);
    chip.type = "button";
    chip.addEventListener("click", () => {
      if (!chosen.delete(status)) chosen.add(status);
      update();
    });
    id("chips").append(chip);
  }
}

// What a link leads to stands below the bar, however many lines the bar has.
function measureBar() {
  const bar = document.querySelector(".tools");
  const height = getComputedStyle(bar).position === "sticky" ? bar.offsetHeight : 0;
  document.documentElement.style.setProperty("--bar", height + "px");
}

function follow() {
  let parts;
  try { parts = location.hash.slice(1).split("/").map(decodeURIComponent); } catch { return; }
  const problem = byId.get(parts[0]);
  document.querySelector(".linked")?.classList.remove("linked");
  if (!problem) return;
  history.scrollRestoration = "manual";  // a reload goes where the link points, too
  open(problem);
  problem.details.open = true;
  const [run, sample] = runs.length > 1 ? parts.slice(1) : ["1", parts[1]];
  const at = problem.samples.findIndex(([number, , own]) => String(number) === sample && String(own + 1) === run);
  if (problem.node.hidden || (at >= 0 && !problem.wanted.has(at))) clear();
  const node = problem.drawn[at];
  node?.classList.add("linked");
  node?.focus({preventScroll: true});
  (node || problem.node).scrollIntoView();
}

function step(by) {
  const visible = problems.filter((problem) => !problem.node.hidden);
  const at = visible.findIndex((problem) => problem.node.contains(document.activeElement));
  const next = visible[at < 0 ? 0 : at + by];
  next?.opener.focus({preventScroll: true});
  next?.node.scrollIntoView();
}

function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") { clear(); id("query").blur(); return; }
  if (event.target.matches("input, select")) return;
  if (event.key === "/") { event.preventDefault(); id("query").focus(); }
  if (event.key === "j") step(1);
  if (event.key === "k") step(-1);
}

let waiting;
id("query").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(update, 150); });
id("order").addEventListener("change", sort);
id("solved").addEventListener("change", update);
addEventListener("keydown", key);
addEventListener("hashchange", follow);
problems.forEach(drawProblem);
drawChips();
drawPairTools();
readAddress();
sort();
update();
for (const node of document.querySelectorAll(".tools, footer")) node.hidden = false;
new ResizeObserver(measureBar).observe(document.querySelector(".tools"));
measureBar();
follow();
