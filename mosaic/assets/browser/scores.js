// The table of all scores: filter, sort, page by page, and download as CSV; nothing is fetched.
(() => {
  const make = (parent, name, text = "", attributes = {}) => {
    const node = document.createElement(name);
    if (text !== "") node.textContent = text;
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    parent.append(node);
    return node;
  };
  const quoted = (text) => {
    const safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text; // a spreadsheet would compute it
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  const order = new Intl.Collator("en", { numeric: true });

  const start = (root) => {
    const data = JSON.parse(root.querySelector("script[type='application/json']").textContent);
    const [f1, low, high] = data.f1, columns = data.names.length, total = f1.length;
    const word = (row, column) => data.words[column][data.codes[column][row]];
    const three = (number) => number.toFixed(3);
    const score = (row) => three(f1[row]) + (low[row] === null ? "" : ` [${three(low[row])}, ${three(high[row])}]`);
    const haystack = f1.map((_, row) => data.names.map((_, column) => word(row, column)).join(" ").toLowerCase());
    const ranks = data.words.map((words) => {
      const sorted = words.map((_, i) => i).sort((a, b) => order.compare(words[a], words[b]));
      const rank = [];
      sorted.forEach((i, place) => { rank[i] = place; });
      return rank;
    });
    let rows = f1.map((_, row) => row), first = 0, sorted = null, direction = 1;

    const box = document.createElement("div");
    root.prepend(box);
    const filters = make(box, "div", "", { class: "mosaic-filters" });
    const search = make(make(filters, "label", "Words"), "input", "", { type: "search" });
    const selects = data.names.map((name, column) => {
      const select = make(make(filters, "label", name), "select", "", { "data-column": name });
      make(select, "option", "all", { value: "" });
      ranks[column].map((_, i) => i).sort((a, b) => ranks[column][a] - ranks[column][b])
        .forEach((i) => make(select, "option", data.words[column][i] || "none", { value: i }));
      return select;
    });
    const save = make(filters, "button", "Download as CSV", { type: "button" });
    const count = root.querySelector(".mosaic-count"), body = root.querySelector("tbody");
    count.setAttribute("role", "status");
    const pager = make(root, "div", "", { class: "mosaic-pager" });
    const back = make(pager, "button", "Previous rows", { type: "button" });
    const next = make(pager, "button", "Next rows", { type: "button" });

    const draw = () => {
      body.replaceChildren(...rows.slice(first, first + data.page).map((row) => {
        const line = document.createElement("tr");
        for (let column = 0; column < columns; column++) make(line, "td", word(row, column));
        make(line, "td", score(row));
        return line;
      }));
      const last = Math.min(first + data.page, rows.length), all = rows.length.toLocaleString("en");
      count.textContent = rows.length ? `Rows ${first + 1} to ${last} of ${all}, of ${total.toLocaleString("en")} in all` : "No row fits";
      back.disabled = first === 0;
      next.disabled = last >= rows.length;
    };
    const choose = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      const wanted = selects.map((select) => (select.value === "" ? -1 : Number(select.value)));
      rows = f1.map((_, row) => row).filter((row) =>
        wanted.every((code, column) => code < 0 || data.codes[column][row] === code) &&
        words.every((one) => haystack[row].includes(one)));
      if (sorted !== null) {
        const key = sorted < columns ? (row) => ranks[sorted][data.codes[sorted][row]] : (row) => f1[row];
        rows.sort((a, b) => direction * (key(a) - key(b)) || a - b);
      }
      first = 0;
      draw();
    };
    root.querySelectorAll("th").forEach((head, column, heads) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        direction = sorted === column ? -direction : column < columns ? 1 : -1; // best scores first
        sorted = column;
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
        choose();
      });
    });
    search.addEventListener("input", choose);
    selects.forEach((select) => select.addEventListener("change", choose));
    const turn = (step) => { first += step * data.page; draw(); root.querySelector(".mosaic-wide").scrollTop = 0; };
    back.addEventListener("click", () => turn(-1));
    next.addEventListener("click", () => turn(1));
    save.addEventListener("click", () => {
      const lines = [[...data.names, "macro_f1", "macro_f1_low", "macro_f1_high"]];
      for (const row of rows) lines.push([...data.names.map((_, c) => word(row, c)), ...data.f1.map((numbers) => numbers[row] ?? "")]);
      const text = lines.map((line) => line.map((cell) => quoted(String(cell))).join(",")).join("\n") + "\n";
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
      link.download = "scores.csv";
      link.click();
      URL.revokeObjectURL(link.href);
    });
    draw();
  };
  document.querySelectorAll(".mosaic-scores:not([data-ready])").forEach((root) => { root.dataset.ready = ""; start(root); });
})();
