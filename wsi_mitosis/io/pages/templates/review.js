"use strict";
(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const { file, shown } = page;
  const figures = file.figures;
  const part = file.part.join("/");
  const find = (id) => document.getElementById(id);
  const words = { atypical: "atypical", typical: "typical", none: "not a mitosis", unsure: "cannot tell" };
  const idOf = (figure) => `${figure.slide}\n${figure.figure_id}`;
  const rows = new Map(figures.map((figure, row) => [idOf(figure), row]));
  const MOST_UNDO = 200;

  let reviewer = file.reviewer;
  let work = { verdicts: {}, undo: {}, at: {} };
  let current = 0;
  let isWide = false;
  let marksOn = true;
  let since = performance.now();
  let spent = 0;
  let kept = true;
  let changedSinceSaving = false;

  // The work in the browser

  const place = () =>
    [file.is, file.run, file.design.selection, file.design.blind ? "blind" : "", reviewer].join("\n");

  const readWork = () => {
    try {
      return { ...work, ...JSON.parse(localStorage.getItem(place()) ?? "{}") };
    } catch {
      return work;
    }
  };

  const change = (make) => {
    work = readWork(); // another part of the review may be open, too
    make(work);
    work.at[part] = idOf(figures[current]);
    try {
      localStorage.setItem(place(), JSON.stringify(work));
      kept = true;
    } catch {
      kept = false;
      alarm("This browser keeps nothing after the page is closed. Save the review before you close it.");
    }
  };

  const verdictOf = (row) => work.verdicts[idOf(figures[row])] ?? {};
  const isDecided = (row) => Boolean(verdictOf(row).label);
  const decided = () => figures.filter((_, row) => isDecided(row)).length;

  const alarm = (text) => {
    find("alarm").textContent = text;
    find("alarm").hidden = !text;
  };

  const say = (text) => {
    find("status").textContent = text;
  };

  // Time

  const clock = () => {
    if (!document.hidden) spent += performance.now() - since;
    since = performance.now();
    return spent / 1000;
  };

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) spent += performance.now() - since;
    since = performance.now();
  });

  const speed = () => {
    const seconds = figures.map((_, row) => verdictOf(row).seconds).filter((one) => one > 0);
    if (!seconds.length) return "";
    const middle = seconds.sort((a, b) => a - b)[Math.floor(seconds.length / 2)];
    const left = (figures.length - decided()) * middle;
    const time = left < 90 ? `${Math.ceil(left)} s` : `${Math.ceil(left / 60)} min`;
    return `${middle.toFixed(1)} s a figure${left ? `, about ${time} left` : ""}`;
  };

  // Drawing

  const svg = (name, attributes, text) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text) element.textContent = text;
    find("drawing").append(element);
  };

  const RING_UM = 12;
  const MARK_UM = 6.25;

  const twice = (name, attributes, kind = "line") => {
    svg(name, { ...attributes, class: `halo ${kind}` });
    svg(name, { ...attributes, class: kind });
  };

  const ring = () => {
    // four arcs around the figure, which leave the figure itself free
    for (const [x, y] of [[1, 1], [1, -1], [-1, 1], [-1, -1]]) {
      const [far, near] = [RING_UM, RING_UM * 0.6];
      twice("path", { d: `M${x * near} ${y * far}H${x * far}V${y * near}` });
    }
  };

  const mark = ([x, y, label]) => {
    const kind = `line ${label ?? ""}`;
    if (label === "atypical") twice("path", { d: `M${x} ${y - MARK_UM}l${MARK_UM} ${2 * MARK_UM}h${-2 * MARK_UM}Z` }, kind);
    else twice("circle", { cx: x, cy: y, r: MARK_UM }, kind);
  };

  const scaleBar = (side) => {
    const length = isWide ? 50 : 10;
    const [left, bottom] = [-side / 2 + side * 0.03, side / 2 - side * 0.03];
    twice("path", { d: `M${left} ${bottom}h${length}` }, "bar");
    const size = (find("drawing").clientWidth || 600) / side;
    svg("text", { x: left * size, y: (bottom - side * 0.02) * size, transform: `scale(${1 / size})` }, `${length} µm`);
  };

  const draw = () => {
    const side = isWide ? page.wide_um : page.close_um;
    find("drawing").replaceChildren();
    find("drawing").setAttribute("viewBox", `${-side / 2} ${-side / 2} ${side} ${side}`);
    if (marksOn) {
      ring();
      const far = side / 2 + MARK_UM;
      for (const one of shown[current].marks) if (Math.max(Math.abs(one[0]), Math.abs(one[1])) < far) mark(one);
    }
    scaleBar(side);
  };

  const picture = () => {
    const image = find("crop");
    image.src = isWide ? shown[current].wide : shown[current].close;
    image.alt = `Figure ${current + 1}: ${isWide ? page.wide_um : page.close_um} µm around it`;
    draw();
  };

  const show = (row) => {
    if (row !== current) spent = 0;
    current = row;
    since = performance.now();
    picture();
    if (shown[row + 1]) new Image().src = shown[row + 1].close; // decoded before it is needed
    const { label, note } = verdictOf(row);
    for (const button of document.querySelectorAll(".verdict")) {
      button.setAttribute("aria-pressed", String(button.dataset.label === label));
    }
    find("note").value = note ?? "";
    const lines = [["Slide", figures[row].slide], ["Place", shown[row].place], ...shown[row].says];
    find("says").replaceChildren(
      ...lines.flatMap(([title, text]) =>
        [["dt", title], ["dd", text]].map(([name, content]) => {
          const element = document.createElement(name);
          element.textContent = content;
          return element;
        }),
      ),
    );
    const done = decided();
    find("position").textContent = `Figure ${row + 1} of ${figures.length}; ${done} decided`;
    find("progress").value = done;
    find("speed").textContent = speed();
    find("back").disabled = row === 0;
    find("next").disabled = row === figures.length - 1;
    find("undo").disabled = !undoable().length;
  };

  // What keys and buttons do

  const go = (row) => show(Math.min(Math.max(row, 0), figures.length - 1));

  const nextOpen = () => {
    const after = [...figures.keys()].map((row) => (current + 1 + row) % figures.length);
    return after.find((row) => !isDecided(row));
  };

  const step = (row) => {
    change(() => {});
    go(row);
    say("");
  };

  const toOpen = (said) => {
    const row = nextOpen();
    if (row === undefined) {
      show(current);
      say(`${said}All ${figures.length} figures are decided. Save the review.`);
    } else {
      show(row);
      say(said);
    }
  };

  const undoable = () => (work.undo[part] ?? []).filter(([id]) => rows.has(id));

  const decide = (label) => {
    const id = idOf(figures[current]);
    const seconds = Math.round(clock() * 10) / 10;
    const at = new Date().toISOString();
    change((now) => {
      const before = now.verdicts[id] ?? {};
      now.undo[part] = [...(now.undo[part] ?? []), [id, before]].slice(-MOST_UNDO);
      now.verdicts[id] = { ...before, label, seconds, at };
    });
    changedSinceSaving = true;
    toOpen(`Figure ${rows.get(id) + 1}: ${words[label]}. `);
  };

  const undo = () => {
    const last = undoable().at(-1);
    if (!last) return say("There is nothing to undo.");
    const [id, before] = last;
    change((now) => {
      now.undo[part] = now.undo[part].slice(0, now.undo[part].findLastIndex(([one]) => one === id));
      const { note } = now.verdicts[id] ?? {};
      now.verdicts[id] = { ...before, ...(note ? { note } : {}) };
    });
    changedSinceSaving = true;
    show(rows.get(id));
    say(`Undone: figure ${current + 1} is ${before.label ? words[before.label] : "not decided"}.`);
  };

  const annotate = () => {
    const note = find("note").value.slice(0, page.most_note);
    const id = idOf(figures[current]);
    change((now) => {
      now.verdicts[id] = { ...now.verdicts[id], note };
    });
    changedSinceSaving = true;
  };

  const toggle = (button, value) => {
    find(button).setAttribute("aria-pressed", String(value));
    return value;
  };

  const toggleWide = () => {
    isWide = toggle("wide", !isWide);
    picture();
  };

  const toggleMarks = () => {
    marksOn = toggle("marks", !marksOn);
    draw();
  };

  // Files

  const asFile = () => ({
    ...file,
    reviewer,
    figures: figures.map((figure) => {
      const { label = null, note = "", seconds = null, at = null } = work.verdicts[idOf(figure)] ?? {};
      return { ...figure, label, note, seconds: label && seconds, at: label && at };
    }),
  });

  const save = () => {
    work = readWork();
    const number = file.part[1] > 1 ? `-${file.part[0]}` : "";
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([`${JSON.stringify(asFile(), null, 1)}\n`], { type: "application/json" }));
    link.download = `review-${reviewer.replaceAll(" ", "_")}${number}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    changedSinceSaving = false;
    const left = figures.length - decided();
    find("saved").textContent = `${link.download}: ${decided()} decided${left ? `, ${left} not yet` : ""}.`;
    say(`Saved as ${link.download}.`);
  };

  const refusal = (loaded) => {
    if (loaded?.is !== file.is || !Array.isArray(loaded.figures)) return "it is no review of wsi-mitosis";
    if (loaded.schema !== file.schema) return "another version of the program wrote it";
    if (loaded.run !== file.run) return "it is of other results";
    if (loaded.design?.blind !== file.design.blind) return `it is ${file.design.blind ? "not " : ""}blind, and this page is ${file.design.blind ? "" : "not "}blind`;
    if (reviewer && loaded.reviewer !== reviewer) return `its reviewer is ${loaded.reviewer}`;
    return "";
  };

  const load = async () => {
    const [chosen] = find("load").files;
    if (!chosen) return;
    let loaded = null;
    try {
      loaded = JSON.parse(await chosen.text());
    } catch {
      loaded = null;
    }
    find("load").value = "";
    const reason = refusal(loaded);
    if (reason) return say(`${chosen.name} was not loaded: ${reason}.`);
    let taken = 0;
    change((now) => {
      for (const figure of loaded.figures) {
        const id = idOf(figure);
        const before = now.verdicts[id] ?? {};
        if (!rows.has(id) || !(figure.label in words) || (before.at ?? "") >= figure.at) continue;
        const { label, note, seconds, at } = figure;
        now.verdicts[id] = { label, note: note || before.note || "", seconds, at };
        taken += 1;
      }
    });
    show(current);
    say(`${chosen.name}: ${taken} verdicts taken.`);
  };

  // Keys

  const keys = {
    a: () => decide("atypical"), 1: () => decide("atypical"),
    t: () => decide("typical"), 2: () => decide("typical"),
    n: () => decide("none"), 3: () => decide("none"),
    u: () => decide("unsure"), 4: () => decide("unsure"),
    z: undo, backspace: undo,
    arrowleft: () => step(current - 1), arrowright: () => step(current + 1),
    home: () => step(0), end: () => step(figures.length - 1),
    g: () => toOpen(""),
    w: toggleWide, m: toggleMarks, s: save,
    e: () => find("note").focus(),
    "?": () => {
      const details = document.querySelector("details");
      details.open = !details.open;
    },
  };

  document.addEventListener("keydown", (event) => {
    if (document.querySelector("main").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches("textarea, input")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const action = keys[event.key.toLowerCase()];
    if (!action || event.repeat && !event.key.startsWith("Arrow")) return;
    event.preventDefault();
    action();
  });

  for (const button of document.querySelectorAll(".verdict")) {
    button.addEventListener("click", () => decide(button.dataset.label));
  }
  const clicks = {
    back: () => step(current - 1), next: () => step(current + 1),
    wide: toggleWide, marks: toggleMarks, undo, save,
    open: () => toOpen(""),
  };
  for (const [id, action] of Object.entries(clicks)) find(id).addEventListener("click", action);
  find("note").addEventListener("input", annotate);
  find("note").maxLength = page.most_note;
  find("load").addEventListener("change", load);
  addEventListener("resize", draw);
  addEventListener("beforeunload", (event) => {
    if (!kept && changedSinceSaving) event.preventDefault();
  });

  // The beginning

  const begin = () => {
    find("reviewer").textContent = reviewer;
    find("name").hidden = true;
    document.querySelector("main").hidden = false;
    work = readWork();
    const found = decided();
    const at = rows.get(work.at[part]);
    current = at ?? 0;
    show(current);
    if (at !== undefined && isDecided(current) && nextOpen() !== undefined) show(nextOpen());
    if (found) say(`${found} verdicts of ${reviewer} were found in this browser.`);
  };

  find("name").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = find("name-text").value.trim();
    if (!new RegExp(page.name, "u").test(name)) {
      return alarm("Use letters, digits, spaces and . , @ + - _ only, at most 64.");
    }
    alarm("");
    reviewer = name;
    begin();
  });

  if (reviewer) begin();
  else {
    find("name").hidden = false;
    find("name-text").focus();
  }
})();
