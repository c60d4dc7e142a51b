// The latent browser. Texts reach the page as text nodes and attributes only, never as markup.
(() => {
  const add = (parent, name, text = "", attributes = {}) => {
    const svg = ["svg", "rect", "title"].includes(name);
    const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    if (text !== "") node.textContent = text;
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    parent.append(node);
    return node;
  };
  const short = (number) => String(Number(number.toPrecision(3)));
  const signed = (number) => (number > 0 ? "+" : "−") + short(Math.abs(number));

  const histogram = (parent, latent) => {
    const heights = latent.inside.map((n, i) => n + latent.elsewhere[i]);
    const most = Math.max(...heights), wide = 100 / heights.length;
    const total = heights.reduce((a, b) => a + b, 0), own = latent.inside.reduce((a, b) => a + b, 0);
    const last = latent.edges.at(-1), label = latent.weights[0].label;
    const words = `Sums above 0 in ${total} documents, ${own} of them of class ${label}; from ` +
      `${short(latent.edges[0])} to ${short(last)}, tallest bar ${most}.`;
    const svg = add(parent, "svg", "", { role: "img", "aria-label": words, viewBox: "0 0 100 50", preserveAspectRatio: "none" });
    heights.forEach((height, i) => {
      const scale = 50 / most, inside = latent.inside[i] * scale, outside = latent.elsewhere[i] * scale;
      const range = `${short(latent.edges[i])} to ${short(latent.edges[i + 1])}`;
      for (const [kind, tall, top] of [["in", inside, 50 - inside], ["out", outside, 50 - inside - outside]]) {
        const bar = add(svg, "rect", "", { class: `mosaic-${kind}`, x: i * wide, y: top, width: wide * 0.9, height: tall });
        add(bar, "title", `${range}: ${latent.inside[i]} of ${label}, ${latent.elsewhere[i]} of other classes`);
      }
    });
    const key = add(parent, "p", "", { class: "mosaic-about" });
    add(key, "span", `${label}  `, { class: "mosaic-key" });
    add(key, "span", "other classes. ", { class: "mosaic-key mosaic-rest" });
    add(key, "span", words);
  };

  const texts = (parent, title, list, most, said) => {
    if (!list.length) return;
    add(parent, "h4", title);
    const items = add(parent, "ul");
    for (const text of list) {
      const item = add(items, "li"), line = add(item, "span", "", { class: "mosaic-text", dir: "auto" });
      for (const [piece, value] of text.pieces) {
        if (value === 0) { line.append(piece); continue; }
        const mark = add(line, "mark", piece, { tabindex: -1, "data-value": short(value) });
        mark.style.setProperty("--shade", Math.min(1, value / most));
        mark.addEventListener("focus", () => { said.textContent = `${piece.trim()}: ${short(value)}`; });
      }
      const marks = [...line.querySelectorAll("mark")];
      if (marks.length) marks[0].tabIndex = 0; // one stop a text, arrows inside it
      line.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key], at = marks.indexOf(event.target);
        if (!step || !marks[at + step]) return;
        event.preventDefault();
        marks[at].tabIndex = -1;
        marks[at + step].tabIndex = 0;
        marks[at + step].focus();
      });
      add(item, "span", `${text.label}, sum ${short(text.value)}`, { class: "mosaic-of" });
    }
  };

  const draw = (parent, latent, said) => {
    parent.replaceChildren();
    const facts = add(parent, "p");
    for (const w of latent.weights)
      add(facts, "span", `Weight ${signed(w.weight)} for ${w.label} (effect ${signed(w.effect)} logits). `);
    if (latent.page && latent.page.startsWith("https://"))
      add(facts, "a", "This latent on Neuronpedia", { href: latent.page, rel: "noopener" });
    if (latent.explanation) add(facts, "span", ` Explained there as: ${latent.explanation}`);
    if (latent.promotes.length) {
      const line = add(parent, "p", "Its decoder direction promotes ");
      for (const token of latent.promotes) add(line, "span", token.replaceAll("\n", "⏎"), { class: "mosaic-chip" });
    }
    if (latent.edges.length) histogram(parent, latent);
    const values = latent.strongest.flatMap((text) => text.pieces.map((piece) => piece[1]));
    const most = Math.max(...values, 1e-9);
    texts(parent, "Texts it is strongest on", latent.strongest, most, said);
    texts(parent, "Random texts it is active on", latent.random, most, said);
  };

  document.querySelectorAll(".mosaic-latents:not([data-ready])").forEach((root) => {
    root.dataset.ready = "";
    const view = JSON.parse(root.querySelector("script[type='application/json']").textContent);
    const folded = root.querySelector(".mosaic-folded"), choice = document.createElement("div");
    choice.className = "mosaic-choice";
    folded.before(choice);
    const label = add(choice, "label", "Latent "), select = add(label, "select");
    view.latents.forEach((latent, i) =>
      add(select, "option", `${latent.latent}: ${signed(latent.weights[0].weight)} ${latent.weights[0].label}`, { value: i }));
    add(choice, "span", "Texts may offend. Arrow keys move from token to token.", { class: "mosaic-of" });
    const said = add(root, "span", "", { class: "mosaic-said", role: "status" }), shown = document.createElement("div");
    shown.className = "mosaic-shown";
    folded.replaceWith(shown);
    select.addEventListener("change", () => draw(shown, view.latents[Number(select.value)], said));
    draw(shown, view.latents[0], said);
  });
})();
