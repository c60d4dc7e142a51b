// Texts of the page whose contrast with their background is below 4.5 (3 where large), WCAG 2.1.
(() => {
  const parse = (text) => (text.match(/[\d.]+/g) || []).map(Number);
  const over = ([r, g, b, a = 1], under) => [r, g, b].map((c, i) => c * a + under[i] * (1 - a));
  const luminance = (colour) => {
    const [r, g, b] = colour.map((c) => c / 255).map((c) =>
      c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const background = (element) => {
    const stack = [];
    for (let e = element; e; e = e.parentElement) stack.push(parse(getComputedStyle(e).backgroundColor));
    const root = document.documentElement.dataset.theme === "dark" ? [0, 0, 0] : [255, 255, 255];
    return stack.reverse().reduce((under, layer) => over(layer, under), root);
  };
  const weak = new Set();
  for (const e of document.querySelectorAll("article *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    const style = getComputedStyle(e);
    if (!own || !e.getClientRects().length || style.visibility === "hidden") continue;
    const back = background(e);
    const [x, y] = [luminance(over(parse(style.color), back)), luminance(back)];
    const ratio = (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
    const large = parseFloat(style.fontSize) >= 24;
    if (ratio < (large ? 3 : 4.5)) {
      weak.add(`${e.tagName}.${e.className} ${style.color} on ${back.map(Math.round)}: ${ratio.toFixed(2)}`);
    }
  }
  return [...weak];
})()
