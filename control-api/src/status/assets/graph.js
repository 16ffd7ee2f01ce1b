// The mesh as a graph: callers on the left, those who are called on the right, in layers, with what goes on at each edge.

import { attribute, millis, morph, percent, short, svg } from "./dom.js";

const NODE = { width: 184, height: 62 };
const GAP = { least: 132, most: 220, y: 34 };
const MARGIN = 16;
const SHOWN = 48;

/** Where everything is: nodes in layers by the longest way from a caller; within a layer near those that they speak with. */
export function layout(nodes, edges, narrow, room) {
  // Of many the busiest are shown.
  const busy = new Map();
  for (const edge of edges) for (const id of [edge.from, edge.to]) busy.set(id, (busy.get(id) ?? 0) + 1 + edge.traffic.rps);
  const all = [...nodes].sort((a, b) => (busy.get(b.id) ?? 0) - (busy.get(a.id) ?? 0) || (a.id < b.id ? -1 : 1));
  const chosen = all.slice(0, SHOWN).sort((a, b) => (a.id < b.id ? -1 : 1));
  const inside = new Set(chosen.map((node) => node.id));
  const connected = new Set(edges.filter((edge) => edge.from !== edge.to && inside.has(edge.from) && inside.has(edge.to)).flatMap((edge) => [edge.from, edge.to]));
  const known = new Map(chosen.map((node) => [node.id, { node, layer: 0, order: 0 }]));
  const links = edges.filter((edge) => edge.from !== edge.to && known.has(edge.from) && known.has(edge.to));
  // Longest way, with a bound: there may be circles.
  for (let round = 0; round < Math.min(known.size, 8); round += 1) {
    let moved = false;
    for (const { from, to } of links) {
      const [a, b] = [known.get(from), known.get(to)];
      const back = links.some((other) => other.from === to && other.to === from && from > to);
      if (!back && b.layer < a.layer + 1 && a.layer + 1 < 8) { b.layer = a.layer + 1; moved = true; }
    }
    if (!moved) break;
  }
  const layers = [];
  for (const it of known.values()) (layers[it.layer] ??= []).push(it);
  const rows = layers.filter(Boolean);
  // What has no edge stands in lines of its own beneath, else one layer would be a tower.
  const lonely = rows[0]?.filter((it) => !connected.has(it.node.id)) ?? [];
  if (rows[0]) rows[0] = rows[0].filter((it) => connected.has(it.node.id));
  const columns = rows.filter((row) => row.length > 0);
  columns.forEach((row) => row.forEach((it, place) => { it.order = place; }));
  for (let sweep = 0; sweep < 4; sweep += 1) {
    for (const row of columns) {
      for (const it of row) {
        const near = links.filter((e) => e.to === it.node.id || e.from === it.node.id)
          .map((e) => known.get(e.to === it.node.id ? e.from : e.to).order);
        if (near.length) it.weight = near.reduce((a, b) => a + b, 0) / near.length;
      }
      row.sort((a, b) => (a.weight ?? a.order) - (b.weight ?? b.order) || (a.node.id < b.node.id ? -1 : 1));
      row.forEach((it, place) => { it.order = place; });
    }
  }
  return place(columns, lonely, known, links, narrow, room);
}

function place(columns, lonely, known, links, narrow, room) {
  const tallest = Math.max(1, ...columns.map((row) => row.length));
  // As wide as there is room for, within reason.
  const spare = (room - 2 * MARGIN - columns.length * NODE.width) / Math.max(1, columns.length - 1);
  const gap = Math.min(GAP.most, Math.max(GAP.least, Math.floor(spare)));
  // On a phone layers go downwards.
  const step = narrow
    ? { along: NODE.height + 72, across: NODE.width + 14 }
    : { along: NODE.width + gap, across: NODE.height + GAP.y };
  columns.forEach((row, layer) => row.forEach((it, order) => {
    const across = MARGIN + (order + (tallest - row.length) / 2) * step.across;
    const along = MARGIN + layer * step.along;
    [it.x, it.y] = narrow ? [across, along] : [along, across];
  }));
  const size = {
    width: narrow ? tallest * step.across + MARGIN : Math.max(1, columns.length) * step.along - gap + 2 * MARGIN,
    height: narrow ? columns.length * step.along + MARGIN : (columns.length ? tallest : 0) * step.across + MARGIN,
  };
  const line = Math.max(1, Math.floor(Math.max(size.width, narrow ? 2 * step.across : room - 2 * MARGIN) / (NODE.width + 20)));
  lonely.forEach((it, order) => {
    it.x = MARGIN + (order % line) * (NODE.width + 20);
    it.y = size.height + Math.floor(order / line) * (NODE.height + 14);
  });
  if (lonely.length) {
    size.width = Math.max(size.width, Math.min(lonely.length, line) * (NODE.width + 20) + MARGIN);
    size.height += Math.ceil(lonely.length / line) * (NODE.height + 14);
  }
  return { places: known, links, size };
}

/** How an edge is: bad, warn, good or idle. */
export function mood(edge) {
  const { rps, errors, refused, connections } = edge.traffic;
  if (rps === 0 && connections === 0) return "idle";
  if (errors >= 0.05) return "bad";
  return errors > 0 || refused >= 0.05 ? "warn" : "good";
}

/** The words at an edge. */
export function words(edge) {
  const { rps, errors, refused, p99, connections } = edge.traffic;
  if (rps > 0) {
    const wrong = errors > 0 ? `${percent(errors)} errors` : refused > 0 ? `${percent(refused)} refused` : `p99 ${millis(p99)}`;
    return [`${short(rps)} req/s`, wrong];
  }
  if (connections > 0) return [`${short(connections)} conn/s`, ""];
  return edge.share === null ? ["idle", ""] : [`${percent(edge.share)} routed`, ""];
}

/** Draws into `box`; what stays the same stays the same element. `select` is told of clicks and keys. Returns how many nodes there are to see. */
export function draw(box, overview, selected, select) {
  const narrow = box.clientWidth < 640;
  const room = Math.max(320, box.clientWidth);
  const { places, links, size } = layout(overview.nodes, overview.edges, narrow, room);
  // What is a little too wide is made smaller, what is much too wide is moved along.
  const scale = Math.max(0.68, Math.min(1, room / size.width));
  const root = svg("svg", {
    viewBox: `0 0 ${size.width} ${size.height}`, role: "group", "aria-label": "Services and who calls whom",
    width: Math.floor(size.width * scale), height: Math.floor(size.height * scale),
  });
  const most = Math.max(1, ...links.map((edge) => edge.traffic.rps));
  const labels = [];
  const taken = [...places.values()].map(({ x, y }) => ({ x, y, width: NODE.width, height: NODE.height }));
  for (const edge of links) root.append(line(edge, places, narrow, most, labels, taken));
  for (const it of places.values()) root.append(nodeOf(it, selected));
  root.append(...labels);
  if (box.firstElementChild?.tagName !== "svg") box.replaceChildren(root);
  else {
    const there = box.firstElementChild;
    for (const name of ["viewBox", "width", "height"]) attribute(there, name, root.getAttribute(name));
    morph(there, root.childNodes);
  }
  if (!box.dataset.listens) {
    box.dataset.listens = "yes";
    box.addEventListener("click", (event) => select(event.target.closest("[data-node]")?.dataset.node ?? null));
    box.addEventListener("keydown", (event) => {
      const node = event.target.closest?.("[data-node]");
      if (node && (event.key === "Enter" || event.key === " ")) { event.preventDefault(); select(node.dataset.node); }
      if (event.key === "Escape") select(null);
    });
  }
  return places.size;
}

function line(edge, places, narrow, most, labels, taken) {
  const [a, b] = [places.get(edge.from), places.get(edge.to)];
  const back = narrow ? b.y < a.y : b.x < a.x;
  const [from, to] = narrow
    ? [{ x: a.x + NODE.width / 2, y: a.y + (back ? 0 : NODE.height) }, { x: b.x + NODE.width / 2, y: b.y + (back ? NODE.height : 0) }]
    : [{ x: a.x + (back ? 0 : NODE.width), y: a.y + NODE.height / 2 }, { x: b.x + (back ? NODE.width : 0), y: b.y + NODE.height / 2 }];
  const bend = (narrow ? to.y - from.y : to.x - from.x) / 2;
  const d = narrow
    ? `M${from.x} ${from.y}C${from.x} ${from.y + bend} ${to.x} ${to.y - bend} ${to.x} ${to.y}`
    : `M${from.x} ${from.y}C${from.x + bend} ${from.y} ${to.x - bend} ${to.y} ${to.x} ${to.y}`;
  const how = mood(edge);
  const width = how === "idle" ? 1.5 : 1.8 + 3.2 * Math.sqrt(edge.traffic.rps / most);
  const key = `${edge.from}>${edge.to}`;
  const [first, second] = words(edge);
  const locked = edge.traffic.tls === "all";
  const wide = 20 + 6.3 * Math.max(first.length, second.length) + (locked ? 14 : 0);
  const tall = second ? 34 : 20;
  const controls = narrow ? [{ x: from.x, y: from.y + bend }, { x: to.x, y: to.y - bend }] : [{ x: from.x + bend, y: from.y }, { x: to.x - bend, y: to.y }];
  const at = free([from, ...controls, to], wide, tall, taken);
  const text = { x: at.x + (locked ? 7 : 0), class: "label" };
  labels.push(svg("g", { class: `tag ${how}`, "data-key": key, "data-edge": key },
    svg("rect", { x: at.x - wide / 2, y: at.y - tall / 2, width: wide, height: tall, rx: 7 }),
    locked ? svg("use", { href: "#lock", x: at.x - wide / 2 + 7, y: at.y - 6, width: 12, height: 12, class: "lock" }) : null,
    svg("text", { ...text, y: at.y + (second ? -3 : 4) }, first),
    second ? svg("text", { ...text, y: at.y + 11, class: "label small" }, second) : null));
  return svg("g", { class: `edge ${how}`, "data-key": key },
    svg("title", {}, `${edge.from} to ${edge.to}: ${first} ${second}`),
    svg("path", { d, "stroke-width": width.toFixed(1) }),
    how === "idle" ? null : svg("path", { d, class: "flow", "stroke-width": Math.max(1.4, width / 2).toFixed(1) }));
}

const WAYS = [0.5, 0.4, 0.6, 0.32, 0.68, 0.25, 0.75, 0.82, 0.18, 0.88];

/** Where on its curve (of Bézier) a label hides nothing; the middle if it does everywhere. */
function free([a, b, c, d], width, height, taken) {
  const along = (t, axis) => (1 - t) ** 3 * a[axis] + 3 * (1 - t) ** 2 * t * b[axis] + 3 * (1 - t) * t ** 2 * c[axis] + t ** 3 * d[axis];
  const box = (t, lift) => ({ x: along(t, "x") - width / 2, y: along(t, "y") - height / 2 + lift, width, height });
  const hits = (one) => taken.some((it) => one.x < it.x + it.width + 3 && it.x < one.x + one.width + 3 && one.y < it.y + it.height + 3 && it.y < one.y + one.height + 3);
  const tries = [0, -0.6, 0.6, -1.15, 1.15, -1.7, 1.7].map((it) => it * height).flatMap((lift) => WAYS.map((t) => box(t, lift)));
  const found = tries.find((one) => !hits(one)) ?? tries[0];
  taken.push(found);
  return { x: found.x + width / 2, y: found.y + height / 2 };
}

const KINDS = { service: "service", workload: "workload", gateway: "gateway", external: "outside" };

function nodeOf({ node, x, y }, selected) {
  const empty = node.kind === "service" && node.ready === 0;
  const below = node.kind === "service"
    ? `${node.ready}/${node.endpoints} ready${node.proxies ? ` · ${node.proxies} proxied` : ""}`
    : node.proxies ? `${node.proxies} ${node.proxies === 1 ? "proxy" : "proxies"}` : KINDS[node.kind];
  const name = node.name.length > 21 ? `${node.name.slice(0, 20)}…` : node.name;
  return svg("g", {
    class: `node ${node.kind}${empty ? " empty" : ""}${selected === node.id ? " selected" : ""}`,
    transform: `translate(${x.toFixed(0)} ${y.toFixed(0)})`, tabindex: 0, role: "button",
    "aria-pressed": String(selected === node.id), "data-node": node.id, "data-key": node.id,
    "aria-label": `${KINDS[node.kind]} ${node.name} in ${node.namespace}, ${below}`,
  },
    svg("title", {}, `${node.namespace}/${node.name}`),
    svg("rect", { width: NODE.width, height: NODE.height, rx: 11 }),
    svg("rect", { class: "bar", width: 4, height: NODE.height - 20, x: 9, y: 10, rx: 2 }),
    svg("text", { x: 22, y: 20, class: "kind" }, `${KINDS[node.kind]} · ${node.namespace.slice(0, 16)}`),
    svg("text", { x: 22, y: 37, class: "name" }, name),
    svg("text", { x: 22, y: 53, class: "below" }, below));
}
