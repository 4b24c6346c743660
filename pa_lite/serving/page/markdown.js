// Markdown as DOM nodes. Text of models only ever becomes text nodes: no HTML, no links, no images, no attributes.
const node = (name, text, className) => {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
};

const INLINE = /(`+)([^`]|[^`][\s\S]*?[^`])\1(?!`)|\*\*(?=\S)([\s\S]*?\S)\*\*|(?<![\w*])\*(?=[^\s*])([^*\n]*?[^\s*])\*(?![\w*])/;

function addInline(parent, text) {
  for (let found; (found = INLINE.exec(text)); text = text.slice(found.index + found[0].length)) {
    parent.append(text.slice(0, found.index));
    if (found[2] !== undefined) parent.append(node("code", found[2].trim() || found[2]));
    else {
      const inner = node(found[3] !== undefined ? "strong" : "em");
      addInline(inner, found[3] ?? found[4]);
      parent.append(inner);
    }
  }
  parent.append(text);
}

const STARTS = /^(```|~~~|#{1,6} |\s*[-*+] |\s*\d{1,9}[.)] |> )/;

function markdown(text) {
  const out = document.createDocumentFragment();
  const lines = text.split("\n");
  let i = 0;
  while (i < lines.length) {
    const line = lines[i];
    const fence = /^(```+|~~~+)/.exec(line);
    if (fence) {
      const held = [];
      for (i += 1; i < lines.length && !lines[i].startsWith(fence[1]); i += 1) held.push(lines[i]);
      i += 1;
      const block = node("pre");
      block.append(node("code", held.join("\n")));
      block.tabIndex = 0;
      out.append(block);
    } else if (/^#{1,6} /.test(line)) {
      const level = line.indexOf(" ");
      const title = node(`h${Math.min(5, level + 2)}`);
      addInline(title, line.slice(level + 1));
      out.append(title);
      i += 1;
    } else if (/^\s*([-*+]|\d{1,9}[.)]) /.test(line)) {
      const ordered = /^\s*\d/.test(line);
      const list = node(ordered ? "ol" : "ul");
      if (ordered) list.start = parseInt(line, 10);
      const item = ordered ? /^\s*\d{1,9}[.)] / : /^\s*[-*+] /;
      while (i < lines.length && (item.test(lines[i]) || (/^\s{2,}\S/.test(lines[i]) && list.lastChild))) {
        if (item.test(lines[i])) list.append(node("li"));
        else list.lastChild.append("\n");
        addInline(list.lastChild, lines[i].replace(item, "").trim());
        i += 1;
      }
      out.append(list);
    } else if (line.startsWith("> ")) {
      const quote = node("blockquote");
      const held = [];
      for (; i < lines.length && lines[i].startsWith("> "); i += 1) held.push(lines[i].slice(2));
      addInline(quote, held.join("\n"));
      out.append(quote);
    } else if (line.trim()) {
      const held = [line];
      for (i += 1; i < lines.length && lines[i].trim() && !STARTS.test(lines[i]); i += 1) held.push(lines[i]);
      const paragraph = node("p");
      held.forEach((each, k) => {
        if (k) paragraph.append(node("br"));
        addInline(paragraph, each);
      });
      out.append(paragraph);
    } else i += 1;
  }
  return out;
}
