// The page: takes pictures of the mesh as they come and draws them. All words in them come from outside: they are set as text.

import { el, millis, morph, percent, short, span, svg, text } from "./dom.js";
import { draw, words } from "./graph.js";

const $ = (id) => document.getElementById(id);
const history = new Map();
const KEPT = 60;
let newest = null;
let selected = null;

const badge = (mood, words) => el("span", { class: `badge ${mood}` }, words);
const none = (words) => el("p", { class: "empty-note" }, words);
const known = (it) => it !== null && it !== undefined && it !== "";

function table(heads, rows) {
  const head = heads.map(([name, number]) => el("th", { scope: "col", class: number ? "number" : null }, name));
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "table" },
    el("table", {}, el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows)));
}

const cell = (...content) => el("td", {}, ...content);
const number = (...content) => el("td", { class: "number" }, ...content);
const sub = (words) => known(words) ? el("div", { class: "sub" }, words) : null;

function section(id, count, content) {
  const card = $(id);
  text(card.querySelector(".count"), count === null ? "" : count);
  morph(card.querySelector(".body"), [content]);
}

// What went on during the last minutes, for the little lines.
function remember(overview) {
  const here = new Set(overview.proxies.map((it) => it.id));
  for (const id of history.keys()) if (!here.has(id)) history.delete(id);
  for (const proxy of overview.proxies) {
    if (!proxy.admin || proxy.admin.error) continue;
    const values = history.get(proxy.id) ?? [];
    values.push(Math.max(proxy.outbound.rps, proxy.inbound.rps));
    history.set(proxy.id, values.slice(-KEPT));
  }
}

function spark(values) {
  if (!values || values.length < 2) return "";
  const most = Math.max(1, ...values);
  const at = (value, place) => `${((place + KEPT - values.length) * 84 / (KEPT - 1)).toFixed(1)} ${(20 - 18 * value / most).toFixed(1)}`;
  const points = values.map(at);
  const begin = points[0].split(" ")[0];
  return svg("svg", { class: "spark", viewBox: "0 0 84 22", "aria-hidden": "true" },
    svg("path", { class: "area", d: `M${begin} 22L${points.join("L")}L84 22Z` }), svg("path", { d: `M${points.join("L")}` }));
}

function tiles(overview) {
  const { control, proxies, edges, certificates, roots } = overview;
  const behind = proxies.filter((it) => it.state === "behind").length;
  const refusing = proxies.filter((it) => it.state === "refused").length;
  const rps = edges.reduce((sum, edge) => sum + edge.traffic.rps, 0);
  const errors = edges.reduce((sum, edge) => sum + edge.traffic.rps * edge.traffic.errors, 0);
  const p99 = edges.map((edge) => edge.traffic.p99).filter((it) => it !== null);
  const seen = edges.filter((edge) => edge.observed && edge.to.startsWith("service/") && edge.traffic.tls !== "unknown");
  const locked = seen.filter((edge) => edge.traffic.tls === "all").length;
  const lives = [...certificates, ...roots].map((it) => it.percent_left).filter((it) => it !== null);
  const shortest = lives.length ? Math.min(...lives) : null;
  const asked = control.admins > 0;
  const tile = (label, value, unit, note, mood) => el("div", { class: `tile ${mood ?? ""}`, "data-key": label },
    el("div", { class: "label" }, label), el("div", { class: "value" }, value, unit ? el("small", {}, ` ${unit}`) : null),
    el("div", { class: "note", title: note }, note));
  const state = refusing ? `${refusing} refused something` : behind ? `${behind} on the way` : proxies.length ? "all in sync" : "none yet";
  morph($("tiles"), [
    tile("Proxies", short(control.proxies), "", state, refusing ? "bad" : behind ? "warn" : ""),
    tile("Requests", asked ? short(rps) : "–", asked ? "/s" : "", asked ? "over ten seconds" : "no --status-admin given"),
    tile("Errors", asked ? percent(rps > 0 ? errors / rps : 0) : "–", "", "answered with 5xx", rps > 0 && errors / rps >= 0.05 ? "bad" : errors > 0 ? "warn" : ""),
    tile("Slowest p99", millis(p99.length ? Math.max(...p99) : null), "", "of all edges"),
    tile("Mutual TLS", seen.length ? `${short(locked)}/${short(seen.length)}` : "–", "", "of the edges in use", seen.length && locked === seen.length ? "good" : ""),
    tile("Certificates", shortest === null ? "–" : `${shortest} %`, "", "of life left at least", shortest === null ? "" : shortest <= 5 ? "bad" : shortest <= 20 ? "warn" : "good"),
    tile("Generation", String(control.generation), "", `${control.objects} objects`),
  ]);
}

function proxies(overview) {
  const rows = overview.proxies.map((it) => {
    const mood = { synced: "good", behind: "warn", refused: "bad" }[it.state] ?? "plain";
    const versions = it.versions.map((one) => `${one.type} ${one.acked || "none"} (${one.resources})${one.sent === one.acked ? "" : `, sent ${one.sent}`}`).join("\n");
    const asked = it.admin && !it.admin.error;
    const rate = (traffic) => asked ? `${short(traffic.rps)}/s` : "–";
    const slow = asked ? millis(it.outbound.p99 ?? it.inbound.p99) : "–";
    return el("tr", { "data-key": it.id },
      cell(el("div", { class: "strong" }, it.pod), sub(it.namespace)),
      cell(badge(it.role === "router" ? "" : "plain", it.role), sub(it.client)),
      cell(el("code", {}, it.identity), sub(it.peer)),
      cell(el("span", { title: versions }, badge(mood, it.state)), sub(`generation ${it.generation}`),
        it.refused.map((one) => el("div", { class: "sub" }, `${one.type}: ${one.words}`))),
      number(rate(it.inbound)), number(spark(history.get(it.id)), rate(it.outbound)), number(slow),
      cell(span(it.connected), it.admin?.error ? sub(it.admin.error) : null));
  });
  section("proxies", overview.control.proxies, rows.length
    ? table([["Pod"], ["Role"], ["Identity"], ["Configuration"], ["In", 1], ["Out", 1], ["p99", 1], ["Connected"]], rows)
    : none("No proxy is connected to this control plane."));
}

function routes(overview) {
  const rows = overview.routes.map((it, place) => el("tr", { "data-key": `${place}` },
    cell(el("div", { class: "strong" }, `${it.namespace}/${it.name}`), sub(it.kind)),
    cell(it.parent, sub(it.hosts.join(", "))),
    cell(el("div", { class: "chips" }, it.matches.map((one) => el("code", { class: "badge plain" }, one)))),
    cell(it.backends.length ? el("div", { class: "split" }, it.backends.map((one) => el("div", {},
      el("span", {}, one.to), el("span", {}, percent(one.share)), el("progress", { max: 1, value: one.share, "aria-label": `${one.to}: ${percent(one.share)}` })))) : none("–")),
    cell(el("div", { class: "chips" }, it.extras.map((one) => badge("plain", one))))));
  section("routes", overview.routes.length, rows.length
    ? table([["Route"], ["Parent"], ["Matches"], ["Goes to"], ["Does"]], rows) : none("No routes: each service is called as it is."));
}

const lifeMood = (left) => left <= 5 ? "bad" : left <= 20 ? "warn" : "good";

function certificates(overview) {
  const roots = overview.roots.map((it) => ({ ...it, proxy: "control plane", kind: "root", uris: [], source: "" }));
  const rows = [...overview.certificates, ...roots].map((it, place) => {
    const left = known(it.percent_left) ? it.percent_left : null;
    const ends = (Date.parse(it.expires) - overview.control.at) / 1000;
    return el("tr", { "data-key": `${it.proxy}${place}` },
      cell(el("div", { class: "mono" }, it.uris[0] || it.subject || it.source || "–"), sub(it.proxy)),
      cell(badge("plain", it.kind)),
      cell(el("div", { class: "life" }, left === null ? "" : el("progress", { class: lifeMood(left), max: 100, value: left, "aria-label": `${left} per cent of life left` }),
        el("div", { class: "sub" }, `${left === null ? "" : `${left} % · `}${Number.isFinite(ends) ? (ends > 0 ? `${span(ends)} left` : "ended") : it.expires}`))));
  });
  section("certificates", rows.length, rows.length ? el("div", { class: "tall" }, table([["Whose"], ["Kind"], ["Life"]], rows))
    : none("No certificates are known here: this control plane certifies nobody, and no proxy was asked."));
}

function policies(overview) {
  const rows = overview.policies.map((it) => el("tr", { "data-key": `${it.kind}${it.namespace}/${it.name}` },
    cell(el("div", { class: "strong" }, it.namespace ? `${it.namespace}/${it.name}` : it.name)), cell(it.kind), cell(it.summary)));
  section("policies", rows.length, rows.length ? el("div", { class: "tall" }, table([["Policy"], ["Kind"], ["Says"]], rows)) : none("No policies."));
}

function generations(overview) {
  const rows = overview.generations.slice(0, 40).map((it) => el("li", { "data-key": `${it.proxy}${it.number}` },
    el("div", { class: "row" }, el("span", { class: "strong" }, `${it.proxy} · ${it.number}`),
      el("span", { class: "sub" }, `${known(it.took_ms) ? `${it.took_ms.toFixed(1)} ms · ` : ""}${span((overview.control.at - Date.parse(it.at)) / 1000)} ago`)),
    it.changes.map((one) => el("div", {}, badge(one.change === "removed" ? "warn" : "plain", `${one.count} ${one.kind} ${one.change}`), " ",
      el("span", { class: "mono sub" }, one.names.join(", "), one.count > one.names.length ? " …" : "")))));
  section("generations", null, rows.length ? el("ul", { class: "list tall" }, rows)
    : none("Give --status-admin POD.NAMESPACE=HOST:PORT to see what changed in a proxy, and how long it took."));
}

function ledger(overview) {
  const fields = (list) => el("ul", {}, list.map((it) => el("li", {}, el("code", {}, it.path), sub(it.reason))));
  const rows = overview.ledger.map((it) => el("li", { "data-key": it.proxy },
    el("div", { class: "row" }, el("span", { class: "strong" }, it.proxy),
      el("span", { class: "chips" }, badge("good", `${it.enforced} enforced`), badge(it.inert_count ? "warn" : "plain", `${it.inert_count} inert`),
        badge(it.refused_count ? "bad" : "plain", `${it.refused_count} refused`))),
    it.refused_count ? el("details", {}, el("summary", {}, "refused fields"), fields(it.refused)) : null,
    it.inert_count ? el("details", {}, el("summary", {}, "inert fields, and why"), fields(it.inert)) : null));
  section("ledger", null, rows.length ? el("ul", { class: "list tall" }, rows)
    : none("Give --status-admin POD.NAMESPACE=HOST:PORT to see which fields of its configuration a proxy enforces."));
}

function problems(overview) {
  const card = $("problems");
  card.hidden = overview.problems.length === 0;
  const rows = overview.problems.map((it, place) => el("tr", { "data-key": `${place}` },
    cell(el("div", { class: "strong" }, it.object), sub(it.source)), cell(it.field ? el("code", {}, it.field) : "", el("div", {}, it.reason)), cell(badge("plain", it.origin))));
  section("problems", overview.problems.length, table([["Object"], ["What is wrong"], ["Found in"]], rows));
}

function detail(overview) {
  const node = overview.nodes.find((it) => it.id === selected);
  if (!node) { morph($("detail"), []); return; }
  const lines = overview.edges.filter((edge) => edge.from === node.id || edge.to === node.id).map((edge) => {
    const out = edge.from === node.id;
    const other = (out ? edge.to : edge.from).split("/").slice(1).join("/");
    return el("tr", {}, cell(out ? "calls" : "called by"), cell(el("span", { class: "strong" }, other)), cell(words(edge).join(", ")),
      cell(`p50 ${millis(edge.traffic.p50)}, p99 ${millis(edge.traffic.p99)}`), cell({ all: "TLS", mixed: "TLS in part", clear: "in clear" }[edge.traffic.tls] ?? ""));
  });
  const ports = node.ports.length ? `, ports ${node.ports.join(", ")}` : "";
  morph($("detail"), [el("h3", {}, `${node.namespace}/${node.name}: ${node.kind}${ports}`),
    lines.length ? el("div", { class: "scroll" }, el("table", {}, el("tbody", {}, lines))) : none("Nothing speaks with it now.")]);
}

function render() {
  const overview = newest;
  if (!overview) return;
  text($("instance"), `${overview.control.instance} · ${overview.control.trust_domain}`);
  document.title = overview.problems.length ? `(${overview.problems.length}) Outrider` : "Outrider";
  const notice = $("notice");
  const said = !overview.control.ready ? "This control plane starts: it has not read all of its store and manifests yet."
    : overview.cut_off.length ? `There is more than a page shows: ${overview.cut_off.join(", ")}.` : "";
  notice.hidden = said === "";
  text(notice, said);
  tiles(overview); problems(overview); mesh(overview); proxies(overview); routes(overview); certificates(overview);
  policies(overview); generations(overview); ledger(overview);
  text($("footer"), `As of ${new Date(overview.control.at).toLocaleTimeString()}.`);
}

function mesh(overview) {
  const box = $("graph");
  if (overview.nodes.length === 0) { morph(box, [el("p", { class: "hint" }, "Nothing is here yet: apply a Service, or connect a proxy.")]); return; }
  const shown = draw(box, overview, selected, (id) => { selected = id === selected ? null : id; render(); });
  text(document.querySelector("#topology .count"), shown < overview.nodes.length ? `the ${shown} busiest of ${overview.nodes.length}` : "");
  detail(overview);
}

function live(state, words) {
  $("live").dataset.state = state;
  text($("live-text"), words);
}

function connect() {
  const source = new EventSource("/api/live");
  source.onmessage = (event) => {
    newest = JSON.parse(event.data);
    remember(newest);
    live("live", "live");
    soon();
  };
  source.onerror = () => {
    live("lost", newest ? "connection lost, as it was" : "no connection");
    // The browser comes back by itself, but not after an answer that is no stream.
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, 3000);
  };
}

// At most once a frame, and not while nobody sees it.
let waiting = false;
function soon() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; render(); });
}

let width = window.innerWidth;
window.addEventListener("resize", () => { if (window.innerWidth !== width) { width = window.innerWidth; soon(); } });
connect();
