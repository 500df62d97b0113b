"use strict";
(() => {
  document.documentElement.classList.add("js");
  const at = (id) => document.getElementById(id);
  const data = JSON.parse(at("data").textContent);
  const map = at("map");
  const HEAD = 22, GAP = 3;

  /* Names come from files, and are anybody's: they only ever become text. */
  const make = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };

  /* Rectangles for things with `bytes`, the largest first, as square as they get. */
  const squarify = (things, x, y, width, height) => {
    const placed = [];
    const all = things.reduce((sum, thing) => sum + thing.bytes, 0);
    if (all <= 0 || width <= 0 || height <= 0) return placed;
    const scale = width * height / all;
    const areas = things.map((thing) => thing.bytes * scale);
    let from = 0;
    while (from < things.length && areas[from] > 0) {
      const side = Math.min(width, height);
      let to = from, sum = 0, worst = Infinity;
      while (to < things.length && areas[to] > 0) {
        const next = sum + areas[to];
        const ratio = Math.max(side * side * areas[from] / (next * next), next * next / (side * side * areas[to]));
        if (ratio > worst) break;
        [sum, worst] = [next, ratio];
        to += 1;
      }
      const thick = sum / side;
      let along = 0;
      for (; from < to; from += 1) {
        const long = areas[from] / thick;
        placed.push(width >= height
          ? { thing: things[from], x, y: y + along, width: thick, height: long }
          : { thing: things[from], x: x + along, y, width: long, height: thick });
        along += long;
      }
      if (width >= height) { x += thick; width -= thick; } else { y += thick; height -= thick; }
    }
    return placed;
  };

  const put = (element, box, gap) => {
    element.style.left = `${box.x}px`;
    element.style.top = `${box.y}px`;
    element.style.width = `${Math.max(box.width - gap, 0.5)}px`;
    element.style.height = `${Math.max(box.height - gap, 0.5)}px`;
  };

  let tiles = [], current = 0, drawn = "";

  const describe = (tile) => [
    `${tile.tool.name}: ${tile.name}`, tile.size,
    tile.used === undefined ? "many ages" : `last used ${tile.used}`,
    ...(tile.in_use ? ["in use by a running job"] : []),
  ].join(", ");

  const tell = (tile) => {
    const said = at("said");
    const name = make("b", "", tile.name);
    said.replaceChildren(name, ` ${tile.tool.name}, ${tile.size}`);
    if (tile.used !== undefined) said.append(`, last used ${tile.used}`);
    if (tile.in_use) said.append(", in use by a running job");
    if (tile.path && tile.path !== tile.name) said.append(` - ${tile.path}`);
  };

  const choose = (number, focus) => {
    if (tiles[current]) {
      tiles[current].element.tabIndex = -1;
      tiles[current].element.classList.remove("on");
    }
    current = number;
    tiles[current].element.tabIndex = 0;
    tiles[current].element.classList.add("on");
    tell(tiles[current].tile);
    if (focus) tiles[current].element.focus();
  };

  const drawTile = (box, tool, parent) => {
    const tile = { ...box.thing, tool };
    const gap = Math.min(box.width, box.height) > 6 ? 1 : 0;
    const element = make("button", `tile c${tile.class}${tile.gone ? " many" : ""}${tile.in_use ? " used" : ""}`);
    element.type = "button";
    element.tabIndex = -1;
    element.setAttribute("aria-label", describe(tile));
    put(element, box, gap);
    if (tile.ages) {
      /* What was used last is at the top; what a prune takes fades from the bottom. */
      const ends = tile.ages.map((end, age) => `var(--c${age}) ${age ? tile.ages[age - 1] : 0}% ${end}%`);
      element.style.setProperty("--ages", `linear-gradient(${ends.join(", ")}, var(--track) 0)`);
    }
    if (box.width >= 260 && box.height >= 90) element.classList.add("big");
    if (box.width >= 46 && box.height >= 20) {
      const inner = make("span", "inner");
      inner.append(make("span", "", tile.gone ? tile.name : tile.name.split("/").pop() || tile.name));
      if (box.height >= 36 && box.width >= 62) inner.append(make("small", "", tile.size));
      element.append(inner);
    }
    const gone = make("span", "gone");
    element.append(gone);
    const number = tiles.length;
    element.addEventListener("click", () => choose(number, true));
    element.addEventListener("focus", () => { if (current !== number) choose(number, false); });
    element.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") tell(tile); });
    tiles.push({ element, tile, gone, height: box.height, x: box.x + parent.x + box.width / 2, y: box.y + parent.y + box.height / 2 });
    return element;
  };

  const draw = () => {
    const { clientWidth: width, clientHeight: height } = map;
    if (`${width} ${height}` === drawn) return;
    drawn = `${width} ${height}`;
    tiles = [];
    const tools = data.tools.filter((tool) => tool.bytes > 0).sort((one, other) => other.bytes - one.bytes);
    if (tools.length === 0) {
      map.replaceChildren(make("p", "", "Nothing yet."));
      return;
    }
    const elements = squarify(tools, 0, 0, width, height).map((box) => {
      const tool = box.thing;
      const element = make("div", "tool");
      put(element, box, GAP);
      const head = box.width > 50 && box.height > 44 ? HEAD : 0;
      if (head) {
        const title = make("h3", "", tool.name);
        title.append(" ", make("span", "", `${tool.size}, ${tool.units} ${tool.units === "1" ? "unit" : "units"}`));
        element.append(title);
      }
      const inside = tool.others ? [...tool.tiles, tool.others] : [...tool.tiles];
      inside.sort((one, other) => other.bytes - one.bytes);
      const placed = squarify(inside, 2, head, box.width - GAP - 3, box.height - GAP - head - 1);
      element.append(...placed.map((tile) => drawTile(tile, tool, box)));
      return element;
    });
    map.replaceChildren(...elements);
    current = Math.min(current, tiles.length - 1);
    tiles[current].element.tabIndex = 0;
    shade();
  };

  /* To the nearest piece in that direction, rather straight ahead than aside. */
  const DIRECTIONS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  map.addEventListener("keydown", (event) => {
    const direction = DIRECTIONS[event.key];
    if (!direction || tiles.length === 0) return;
    event.preventDefault();
    const here = tiles[current];
    let best = -1, least = Infinity;
    tiles.forEach((there, number) => {
      const [dx, dy] = [there.x - here.x, there.y - here.y];
      const ahead = dx * direction[0] + dy * direction[1];
      const aside = Math.abs(dx * direction[1]) + Math.abs(dy * direction[0]);
      const far = ahead + 2 * aside;
      if (number !== current && ahead > 0.5 && far < least) [best, least] = [number, far];
    });
    if (best >= 0) choose(best, true);
  });

  /* What a prune would take. */
  const slider = at("to");
  const shade = () => {
    const step = Number(slider.value);
    for (const { element, tile, gone, height } of tiles) {
      const part = tile.gone ? tile.gone[step] || 0 : tile.step <= step ? 100 : 0;
      gone.style.height = `${part}%`;
      /* As soon as the name stands on what is faded. */
      element.classList.toggle("going", part > 0 && height * (100 - part) < 3400);
    }
  };
  const preview = () => {
    const step = data.steps[Number(slider.value)];
    at("target").textContent = step.to;
    slider.setAttribute("aria-valuetext", step.to);
    if (step.units === 0) {
      at("takes").textContent = "Nothing would go.";
      at("command").textContent = "";
    } else {
      const units = step.units === 1 ? "1 unit would go, which was" : `${step.count} units would go, the last of which was`;
      const later = step.in_use ? ` Running jobs use ${step.in_use} of them, and go on seeing them until they end.` : "";
      at("takes").textContent = `${units} last used ${step.youngest}. That would free ${step.frees}.${later}`;
      at("command").textContent = `cachefs prune --max-size ${step.word}`;
    }
    shade();
  };
  if (data.steps.length > 1) {
    slider.max = data.steps.length - 1;
    slider.addEventListener("input", preview);
    at("prune").hidden = false;
    preview();
  }

  at("find").addEventListener("input", (event) => {
    const wanted = event.target.value.toLowerCase();
    for (const row of at("largest").tBodies[0].rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
    }
  });

  new ResizeObserver(draw).observe(map);
  draw();
})();
