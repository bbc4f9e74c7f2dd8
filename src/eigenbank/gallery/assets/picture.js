"use strict";
// Previews on the page: frames cut out of a strip by style alone, and a slider that moves them through the scales.

{
  const { h, signed } = eigenbank;

  // One cell of a preview. Row and column are style variables, so that a parent can move many frames at once.
  function frame(picture, row, alt) {
    const image = h("img", { src: picture.url, alt, loading: "lazy", decoding: "async", draggable: "false", onerror: broken });
    return h("div", { class: "frame", "--row": row }, image);
  }

  // All cells of some rows, in the order of the scales.
  function sheet(picture, rows) {
    const inOrder = picture.columns.every(({ column }, i) => column === i);
    if (!inOrder) {
      const cells = rows.map((row) => h("div", { class: "cells" }, picture.columns.map(({ column }) => {
        const cell = frame(picture, row, "");
        cell.style.setProperty("--column", column);
        return cell;
      })));
      return h("div", { class: "sheet", "aria-hidden": "true" }, cells);
    }
    const image = h("img", { src: picture.url, alt: "", loading: "lazy", decoding: "async", draggable: "false", onerror: broken });
    return h("div", { class: "sheet whole", "--shown": rows.length, "--row": rows[0], "aria-hidden": "true" }, image);
  }

  function broken(event) {
    event.target.closest(".frame, .sheet").classList.add("broken");
  }

  function shape(picture, element) {
    const [width, height] = picture.cell;
    const small = Math.max(width, height) <= 64;
    const variables = { "--width": width, "--height": height, "--columns": picture.columns.length, "--rows": picture.seeds.length };
    for (const [name, value] of Object.entries(variables)) element.style.setProperty(name, value);
    if (small) element.classList.add("pixels");
    return element;
  }

  // The place of the scale nearest to the one wanted.
  function nearest(picture, wanted) {
    const distance = picture.columns.map(({ scale }) => Math.abs(scale - wanted));
    return distance.indexOf(Math.min(...distance));
  }

  // The strip alone, for cards: every scale of the first seed.
  function strip(picture, alt) {
    const film = sheet(picture, [0]);
    return h("div", { class: "strip", role: "img", "aria-label": alt }, shape(picture, h("div", { class: "film" }, film)));
  }

  // Frames with a slider under them; the strip of all scales is the slider's track, and its thumb marks the one shown.
  function scrubber(picture, { name, start, rows = Math.min(3, picture.seeds.length), filmRows = 1, range = null, onscale = null }) {
    const last = picture.columns.length - 1;
    const shown = picture.seeds.slice(0, rows).map((seed, row) => frame(picture, row, ""));
    const frames = h("div", { class: "frames", "--shown": shown.length }, shown);
    const output = h("output", { class: "scale" });
    const slider = h("input", { type: "range", min: 0, max: last, step: 1, value: nearest(picture, start), "aria-label": `Scale of ${name}` });
    const film = h("div", { class: "film" }, sheet(picture, [...Array(Math.min(filmRows, picture.seeds.length)).keys()]), slider);
    const ticks = h("div", { class: "ticks", "aria-hidden": "true" }, tickLabels(picture, range));
    const root = shape(picture, h("div", { class: "scrub" }, frames, film, ticks, output));

    function show(place) {
      const { scale, column } = picture.columns[place];
      root.style.setProperty("--column", column);
      root.style.setProperty("--place", place);
      output.textContent = scale === 0 ? "unedited" : signed(scale);
      output.classList.toggle("zero", scale === 0);
      slider.setAttribute("aria-valuetext", scale === 0 ? "0, unedited" : signed(scale));
      for (const [row, element] of shown.entries()) {
        element.firstChild.alt = `${name} at scale ${signed(scale)}, seed ${picture.seeds[row]}`;
      }
    }

    function set(place, by) {
      slider.value = place;
      show(Number(slider.value));
      onscale?.(picture.columns[Number(slider.value)], by);
    }

    slider.addEventListener("input", () => set(Number(slider.value), "slider"));
    pointing(frames, picture, slider, set);
    show(Number(slider.value));
    return { root, slider, set, columns: picture.columns };
  }

  // Moving over a picture scrubs it, too: a mouse by hovering, a finger by dragging sideways.
  function pointing(frames, picture, slider, set) {
    let before = null;
    const place = (event) => {
      const box = frames.getBoundingClientRect();
      const share = (event.clientX - box.left) / Math.max(1, box.width);
      return Math.max(0, Math.min(picture.columns.length - 1, Math.floor(share * picture.columns.length)));
    };
    frames.addEventListener("pointerenter", (event) => {
      if (event.pointerType === "mouse") before = Number(slider.value);
    });
    frames.addEventListener("pointermove", (event) => {
      if (event.pointerType === "mouse" ? before !== null : event.isPrimary) set(place(event), "pointer");
    });
    frames.addEventListener("click", (event) => {
      before = place(event);
      set(before, "slider");
    });
    frames.addEventListener("pointerleave", () => {
      if (before !== null) set(before, "pointer");
      before = null;
    });
  }

  // The first scale, zero and the last, each under its column; and where the recommended range lies.
  function tickLabels(picture, range) {
    const { columns } = picture;
    const wanted = new Set([0, columns.length - 1, columns.findIndex(({ scale }) => scale === 0)]);
    const ticks = [...wanted].filter((place) => place >= 0).map((place) => h("span", { "--at": place }, signed(columns[place].scale)));
    if (range) {
      const from = nearest(picture, range[0]);
      const to = nearest(picture, range[1]);
      ticks.push(h("i", { class: "span", "--from": from, "--to": to }));
    }
    return ticks;
  }

  Object.assign(eigenbank, { frame, strip, scrubber, nearest });
}
