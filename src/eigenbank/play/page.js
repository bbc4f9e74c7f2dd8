() => {
  // Gradio tells of a slider's release by the pointer alone: keys and the number field release it too.
  const released = (input) => input.dispatchEvent(new PointerEvent("pointerup", { bubbles: true }));
  document.addEventListener("keyup", ({ key, target }) => {
    if (target.matches?.("input[type=range]") && key !== "Tab") released(target);
    if (target.matches?.("input[type=number]") && key === "Enter") target.blur();
  });
}
