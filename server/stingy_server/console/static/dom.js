// Elements are made here, and every text of the state becomes a text node: nothing of it is markup.

const SVG = "http://www.w3.org/2000/svg";

/** Make an element. Properties: class, text, title, on (events), and attributes. */
export function el(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** Make an element of SVG. */
export function svg(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") element.textContent = value;
    else if (name === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Set the text of an element if it differs, so that selections and screen readers are left alone. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Set or remove an attribute if it differs. */
export function setAttribute(element, name, value) {
  if (value === null || value === false) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
  } else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, String(value));
}

/** Replace the children of an element. */
export function replace(element, ...children) {
  element.replaceChildren(...children.filter((child) => child !== null && child !== undefined));
}

/** Show control characters and marks of direction as their code points, so that no name hides one. */
export function visible(text) {
  return text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (mark) => {
    const point = mark.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    return `⟨U+${point}⟩`;
  });
}

/** Make the text of a name, which keeps its own direction and moves nothing beside it. */
export function name(text) {
  const shown = visible(text);
  return el("bdi", { class: "name", text: shown, title: shown });
}
