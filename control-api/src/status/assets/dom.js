// Small helpers for the page: elements whose text is always text, and updates that touch only what changed.

const SVG = "http://www.w3.org/2000/svg";

/** Makes an element. `attributes` are attributes ("class", "href"), children are texts or elements; texts are never read as HTML. */
export function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** Makes an element of SVG. */
export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((it) => it !== null && it !== undefined && it !== ""));
  return node;
}

/** Sets an attribute if it is another one: what is the same is not drawn again. */
export function attribute(node, name, value) {
  const text = String(value);
  if (node.getAttribute(name) !== text) node.setAttribute(name, text);
}

/** Sets a text if it is another one. */
export function text(node, value) {
  const words = String(value);
  if (node.textContent !== words) node.textContent = words;
}

/**
 * Makes the children of `parent` those of `fresh`, in place: what is equal stays as it is, so that nothing flickers, focus and
 * selections stay, and open <details> stay open.
 */
export function morph(parent, fresh) {
  const old = [...parent.childNodes];
  const wanted = [...fresh];
  wanted.forEach((node, place) => {
    const there = old[place];
    if (!there) parent.append(node);
    else if (there.nodeType !== node.nodeType || there.nodeName !== node.nodeName || key(there) !== key(node)) there.replaceWith(node);
    else if (there.nodeType === Node.TEXT_NODE) { if (there.data !== node.data) there.data = node.data; }
    else {
      for (const { name } of [...there.attributes]) if (!node.hasAttribute(name) && name !== "open") there.removeAttribute(name);
      for (const { name, value } of [...node.attributes]) if (there.getAttribute(name) !== value) there.setAttribute(name, value);
      morph(there, node.childNodes);
    }
  });
  old.slice(wanted.length).forEach((node) => node.remove());
}

const key = (node) => node.dataset?.key ?? "";

/** 0.4, 12, 1.2k: rates and counts for people. */
export function short(value) {
  if (value >= 1e6) return `${(value / 1e6).toFixed(1)}M`;
  if (value >= 1e4) return `${(value / 1e3).toFixed(0)}k`;
  if (value >= 1e3) return `${(value / 1e3).toFixed(1)}k`;
  return value >= 10 || Number.isInteger(value) ? value.toFixed(0) : value.toFixed(1);
}

/** Milliseconds for people. The finest bucket of a proxy's histogram is a millisecond. */
export function millis(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 1000) return `${(value / 1000).toFixed(1)} s`;
  return value >= 10 ? `${value.toFixed(0)} ms` : value < 1 ? "<1 ms" : `${value.toFixed(1)} ms`;
}

/** 12 s, 3 min, 5 h, 2 d. */
export function span(seconds) {
  const s = Math.max(0, seconds);
  if (s < 60) return `${Math.floor(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} d`;
}

/** A share as per cent; what is not zero does not look like zero. */
export function percent(share) {
  const value = share * 100;
  if (value > 0 && value < 0.1) return "<0.1 %";
  return `${value >= 10 || Number.isInteger(value) ? value.toFixed(0) : value.toFixed(1)} %`;
}
