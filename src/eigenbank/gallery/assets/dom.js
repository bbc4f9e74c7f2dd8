"use strict";
// Making elements and saying numbers. Text only ever becomes text: nothing here parses markup.

const eigenbank = {};

{
  const SVG = "http://www.w3.org/2000/svg";

  // An element: attributes by name; `on…` a listener; `--…` a style variable; null and false are left out.
  function h(tag, attributes, ...children) {
    return fill(document.createElement(tag), attributes, children);
  }

  function svg(tag, attributes, ...children) {
    return fill(document.createElementNS(SVG, tag), attributes, children);
  }

  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes ?? {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("--")) element.style.setProperty(name, value);
      else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
    return element;
  }

  // Somebody else's words, kept from turning the line they stand in.
  function quote(text) {
    return h("bdi", null, text);
  }

  // A name that may be broken where it has a dot, a slash or a colon.
  function breakable(name) {
    const parts = name.split(/(?<=[./:@#])/);
    return h("bdi", null, parts.flatMap((part, i) => (i ? [h("wbr"), part] : [part])));
  }

  function count(number, one, many = `${one}s`) {
    return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
  }

  // How many of each: `24 directions, 1 composite`.
  function countSliders(sliders) {
    const composites = sliders.filter((slider) => slider.parts).length;
    const directions = sliders.length - composites;
    return [directions && count(directions, "direction"), composites && count(composites, "composite")].filter(Boolean).join(", ") || count(0, "direction");
  }

  // A scale with its sign, as people write it: +1.5, −0.5, 0.
  function signed(scale) {
    const size = String(Math.abs(Number(scale.toFixed(4))));
    return scale > 0 ? `+${size}` : scale < 0 ? `−${size}` : "0";
  }

  function number(value, digits = 3) {
    if (value === null || value === undefined) return "–";
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= 1e5 || size < 1e-3) return value.toExponential(1).replace("-", "−").replace("e+", "e");
    return String(Number(value.toPrecision(digits))).replace("-", "−");
  }

  function percent(share) {
    if (share === null || share === undefined) return "–";
    const value = share * 100;
    return `${value >= 10 || value === 0 ? value.toFixed(0) : value >= 1 ? value.toFixed(1) : value.toPrecision(1)} %`;
  }

  let spoken = 0;
  // Tell people who do not see the page what changed.
  function announce(text) {
    clearTimeout(spoken);
    spoken = setTimeout(() => {
      document.getElementById("status").textContent = text;
    }, 250);
  }

  Object.assign(eigenbank, { h, svg, quote, breakable, count, countSliders, signed, number, percent, announce });
}
