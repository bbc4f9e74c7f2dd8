"use strict";
// One direction: large pictures, who named it and why, its numbers, whether it fits a model, and how to use it.

{
  const { h, quote, breakable, confidence, count, signed, number, percent, link, linkTo, titleOf, plainName, rangeOf, startOf } = eigenbank;

  function direction(state, set, id) {
    const found = set.byId.get(id);
    if (!found) return missing(set, id);
    const title = titleOf(found);
    const uses = snippets(found);
    let scale = Number.isFinite(Number(state.scale)) && state.scale ? Number(state.scale) : startOf(found);
    const stage = found.picture ? scrub(found, scale, uses) : h("p", { class: "nothing soft" }, "No picture was drawn of this direction: ", h("code", null, "eigenbank preview"), " draws them.");
    if (found.picture) scale = stage.scale;
    uses.update(scale);
    const content = h("div", { class: "one direction" },
      h("header", { class: "page" },
        h("p", { class: "crumbs" }, h("a", { href: "#" }, "All checkpoints"), " / ", h("a", { href: link({ model: set.card.name }) }, breakable(set.card.name)),
          found.parts ? [" / ", h("a", { href: link({ model: set.card.name, of: "composites" }) }, "composites")] : [" / ", h("a", { href: link({ model: set.card.name, layer: found.layer.name }) }, breakable(found.layer.name))]),
        h("h1", null, title ? quote(title) : found.parts ? (found.parts.length ? "An unnamed composite" : "An unnamed LoRA") : "An unnamed direction"),
        h("p", { class: "id" }, breakable(found.id)), found.parts ? null : around(found)),
      h("div", { class: "look" }, h("section", { class: "stage", "aria-label": "Pictures" }, found.picture ? stage.root : stage), said(found)),
      h("div", { class: "columns" }, behaviour(found), !found.parts ? standing(found) : found.parts.length ? madeOf(found) : null),
      fits(found),
      h("section", { "aria-labelledby": "use" }, h("h2", { class: "section", id: "use" }, "Use it"), uses.root));
    return { title: title ?? found.id, content };
  }

  function missing(set, id) {
    return { title: "Not here", content: h("section", { class: "empty" }, h("h1", null, "No such direction"),
      h("p", null, quote(set.card.name), " has no ", quote(id), ". It may have been built anew since the link was made."),
      h("p", null, h("a", { href: link({ model: set.card.name }) }, "See what it has"))) };
  }

  function scrub(found, start, uses) {
    const range = rangeOf(found);
    const made = eigenbank.scrubber(found.picture, {
      name: plainName(found), start, rows: Math.min(6, found.picture.seeds.length), filmRows: found.picture.seeds.length, range,
      onscale: ({ scale }, by) => {
        uses.update(scale);
        if (by === "slider") eigenbank.amend({ scale: String(Number(scale.toFixed(4))) });
      },
    });
    const zero = made.columns.findIndex(({ scale }) => scale === 0);
    const reset = zero < 0 ? null : h("button", { type: "button", class: "plain", onclick: () => made.set(zero, "slider") }, "Unedited");
    made.root.querySelector("output").after(h("div", { class: "under" }, reset,
      h("span", { class: "soft" }, `${count(found.picture.seeds.length, "seed")} (${found.picture.seeds.slice(0, 8).join(", ")}), ${count(found.picture.steps, "step")}. Columns are scales; 0 is the unedited picture.`)));
    return { root: made.root, scale: made.columns[Number(made.slider.value)].scale };
  }

  // The neighbours in the spectrum.
  function around(found) {
    const members = eigenbank.byLayer(found.set.directions).get(found.layer).get(found.recipe);
    const at = members.indexOf(found);
    const to = (other, text, rel) => (other ? h("a", { href: linkTo(other), rel }, text(other.rank)) : null);
    return h("nav", { class: "around", "aria-label": "Neighbours in the spectrum" },
      to(members[at - 1], (rank) => `← rank ${rank}`, "prev"), to(members[at + 1], (rank) => `rank ${rank} →`, "next"));
  }

  function said(found) {
    const section = h("section", { "aria-labelledby": "said" }, h("h2", { id: "said" }, "Who says so"));
    if (!found.labels.length) {
      section.append(h("p", null, "Nobody has named it, and most directions have no name: they move several things at once, or different things on different pictures."));
    }
    for (const label of found.labels) section.append(labelBlock(label));
    return section;
  }

  const sigma = (value) => signed(Number(value.toPrecision(3)));

  function labelBlock(label) {
    const { evidence } = label;
    const lines = [["Named by", label.source.words, " on ", h("time", null, label.created)]];
    lines.push(["Confidence", confidence(label)]);
    if (evidence) {
      const [scale, seeds, steps] = evidence.protocol;
      lines.push(["Effect", `${sigma(evidence.effect)} σ per unit of scale`, evidence.chance === null ? "; random directions were not measured" : `; random directions of the same length: ${number(evidence.chance)} σ`]);
      lines.push(["Share of all change", percent(evidence.selectivity)]);
      lines.push(["Same way on", `${percent(evidence.consistency)} of the seeds`]);
      if (evidence.asymmetry !== null) lines.push(["Lopsidedness", `${number(evidence.asymmetry)} (0: left and right mirror each other)`]);
      if (evidence.runnerUp) lines.push(["Moves next", quote(evidence.runnerUp), evidence.runnerUpEffect === null ? "" : `, ${sigma(evidence.runnerUpEffect)} σ`]);
      lines.push(["Measured on", `${seeds}, at ±${number(scale)}, ${count(steps, "step")}`]);
    } else lines.push(["Evidence", "none recorded"]);
    if (label.polarity < 0) lines.push(["Which way", "the stored vector points to less of it; the slider here is turned, so that right is more"]);
    if (label.note) lines.push(["Note", quote(label.note)]);
    return h("div", { class: "label" }, h("h3", null, quote(label.text)), facts(lines));
  }

  function behaviour(found) {
    const range = rangeOf(found);
    const section = h("section", { "aria-labelledby": "behaviour" }, h("h2", { id: "behaviour" }, "As a slider"));
    section.append(h("p", { class: "range" }, "Recommended range: ",
      range ? h("strong", null, `${signed(range[0])} to ${signed(range[1])}`) : h("span", { class: "soft" }, "not measured")));
    section.append(eigenbank.quality(found));
    if (found.quality) {
      const [scale, seeds, steps] = found.quality.protocol;
      section.append(h("p", { class: "soft" }, `Measured by ${found.quality.source.words} on ${seeds}, at ±${number(scale)}, ${count(steps, "step")}. σ is a standard deviation of the score over the checkpoint's own images.`));
    }
    return section;
  }

  function standing(found) {
    const members = eigenbank.byLayer(found.set.directions).get(found.layer).get(found.recipe);
    const { recipe, layer } = found;
    const lines = [
      ["Eigenvalue", `${number(found.eigenvalue, 4)}, rank ${found.rank}`],
      ["Share of the spectrum", percent(found.share)],
      ["Gap to the nearest", found.gap === null ? "not known" : `${number(found.gap)} of the largest eigenvalue${found.gap < 0.01 ? ": so close that another rotation would do as well" : ""}`],
      ["Eigenvector of", `${recipe.of} (${recipe.slug})`],
      ["Added to", `${recipe.where}, for ${recipe.when}`],
      ["Layer", breakable(layer.name), `: ${layer.kind}, ${layer.width} wide, ${count(layer.heads, "head")}`],
    ];
    return h("section", { "aria-labelledby": "standing" }, h("h2", { id: "standing" }, "In the spectrum"),
      eigenbank.spectrum(members, { chosen: found, name: `${layer.name}, ${recipe.slug}` }), facts(lines), within(found));
  }

  // The composites a direction is a part of, those it weighs most in first.
  function within(found) {
    if (!found.within.length) return null;
    const list = h("ul", { class: "parts plainly" });
    const ordered = [...found.within].sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight));
    const more = eigenbank.growing(list, ordered, ({ composite, weight }) => h("li", null,
      h("a", { href: linkTo(composite) }, breakable(composite.id)), h("span", { class: "weight" }, signed(Number(weight.toPrecision(2))))), { size: 12 });
    return [h("h3", { class: "within" }, "Part of these composites, at these weights"), list, more];
  }

  // A composite's directions, the heaviest first.
  function madeOf(found) {
    const parts = [...found.parts].sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight));
    const most = Math.abs(parts[0].weight) || 1;
    const list = h("ul", { class: "parts" });
    const more = eigenbank.growing(list, parts, ({ direction: part, weight }) => h("li", null,
      h("a", { href: linkTo(part) }, breakable(part.id)), h("span", { class: "weight" }, signed(Number(weight.toPrecision(2)))),
      h("span", { class: "bar", "--fill": Math.abs(weight) / most, "aria-hidden": "true" })), { size: 12 });
    return h("section", { "aria-labelledby": "made" }, h("h2", { id: "made" }, "Made of"),
      h("p", { class: "soft" }, `A ${eigenbank.compositeOf(found)}, added together, each at its weight times the scale.`), list, more);
  }

  function fits(found) {
    const { card } = found.set;
    const hub = eigenbank.hubLink(card);
    if (found.parts && !found.parts.length) return h("section", { class: "fits", "aria-labelledby": "fits" }, h("h2", { id: "fits" }, "Will it work on my model?"),
      h("p", null, "It is a LoRA, applied as an adapter: it takes any model that has the layers it changes, and a scale is the adapter's weight. The set names its file and does not hold it."));
    return h("section", { class: "fits", "aria-labelledby": "fits" }, h("h2", { id: "fits" }, "Will it work on my model?"),
      h("p", null, "The pipeline's own weights are asked, never its name. ", h("strong", null, "Exact"), " when they are the very weights of ", breakable(card.model),
        ", in float32, float16 or bfloat16. ", h("strong", null, "Transfer"), ", for fine-tunes, when this is still an eigenvector of theirs: cos∠(M′v, v) of at least 0.9. ",
        h("strong", null, "Foreign"), " below that, and refused unless forced. ", h("strong", null, "Incompatible"), " when the layer is not there, or not ", found.parts ? "as wide. " : `${found.layer.width} wide. `, found.parts ? "A composite is asked direction by direction. " : null,
        "Of quantised weights only the shape can be compared."),
      facts([!found.parts && ["Weights of the layer", found.layer.digest ? h("code", null, `sha256 ${found.layer.digest}…`) : "digest not known"], ["Set on the Hub", hub ?? "not published"]].filter(Boolean)));
  }

  function facts(lines) {
    return h("dl", { class: "lines" }, lines.map(([title, ...value]) => h("div", null, h("dt", null, title), h("dd", null, value))));
  }

  // How to use it, at the scale the slider is at.
  function snippets(found) {
    const { card } = found.set;
    const python = eigenbank.snippet("Python", card.newest || card.repo ? null : "The catalog means a newer set by this id: give the folder of this one to load.");
    const line = eigenbank.snippet("Command line");
    const file = eigenbank.snippet(found.recipe.exportable ? "Export as a LoRA" : "Export the vector",
      found.recipe.exportable ? "For diffusers; --format comfyui for ComfyUI." : "A LoRA can hold only what is added at a layer's output in all steps; this is added elsewhere, or for a part of the run.");
    function update(scale) {
      const stored = Number((scale * found.polarity).toFixed(4));
      python.update(pythonText(found, stored));
      const model = shell(card.model);
      const prompt = card.readsText ? " --prompt 'a prompt of yours'" : "";
      line.update(`eigenbank steer ${model}${prompt} --set ${shell(`${found.id}=${stored}`)} --out edited.png`);
      const edit = stored === 0 ? shell(found.id) : `--set ${shell(`${found.id}=${stored}`)}`;
      file.update(found.recipe.exportable ? `eigenbank export ${model} ${edit} --out slider.safetensors` : `eigenbank export ${model} ${edit} --format json --out slider.json`);
    }
    return { root: h("div", { class: "snippets" }, python.root, line.root, file.root), update };
  }

  function pythonText(found, stored) {
    const { card } = found.set;
    const text = (value) => JSON.stringify(value);
    const local = !card.revision && !card.repo;
    const opened = local ? `eb.open_pipeline(${text(card.model)})`
      : `DiffusionPipeline.from_pretrained(${text(card.model)}${card.revision ? `, revision=${text(card.revision)}` : ""})`;
    const source = card.repo ? `, repo=${text(card.repo)}${card.commit ? `, revision=${text(card.commit)}` : ""}` : "";
    const label = titleOf(found)?.replace(/[\s\p{C}]+/gu, " ");
    const says = label ? `  # ${stored * found.polarity >= 0 ? "more" : "less"}: ${label}` : "";
    return [
      "import eigenbank as eb", ...(local ? [] : ["from diffusers import DiffusionPipeline"]), "",
      `pipe = ${opened}`, `bank = eb.load(${text(card.model)}${source})`,
      `with eb.steer(pipe, {${text(found.id)}: ${stored}}, bank=bank):${says}`, `    images = pipe(${card.readsText ? '"a prompt of yours", ' : ""}num_inference_steps=50).images`,
    ].join("\n");
  }

  function shell(text) {
    return /^[\w./@%+=:,-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
  }

  Object.assign(eigenbank, { direction });
}
