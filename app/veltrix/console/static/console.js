// What pages do beyond what the server gives them. Without it they work, and do not move.
"use strict";
(() => {
  const BASE = "/console";
  const byId = (id) => document.getElementById(id);
  const root = document.documentElement;

  // Theme: the system's, light, dark. The server reads the cookie, so that no page flashes.
  const themes = ["", "light", "dark"];
  const names = { "": "Auto", light: "Light", dark: "Dark" };
  const themeButton = byId("theme");
  const showTheme = () => {
    const name = names[root.dataset.theme || ""];
    themeButton.textContent = name;
    themeButton.setAttribute("aria-label", `Theme: ${name}`);
  };
  themeButton.hidden = false;
  showTheme();
  themeButton.addEventListener("click", () => {
    const next = themes[(themes.indexOf(root.dataset.theme || "") + 1) % themes.length];
    if (next) root.dataset.theme = next;
    else delete root.dataset.theme;
    const age = next ? 31536000 : 0;
    document.cookie = `veltrix_theme=${next}; path=${BASE}; max-age=${age}; samesite=strict`;
    showTheme();
    drawChart();
  });

  // Keyboard.
  const help = byId("help");
  const opener = byId("help-open");
  const keysOn = byId("keys-on");
  opener.hidden = false;
  opener.addEventListener("click", () => help.showModal());
  keysOn.checked = localStorage.getItem("veltrix.keys") !== "off";
  keysOn.addEventListener("change", () => localStorage.setItem("veltrix.keys", keysOn.checked ? "on" : "off"));
  let isGoing = false;
  const rowStep = (step) => {
    const links = [...document.querySelectorAll("main tbody tr td:first-child a")];
    if (!links.length) return;
    const now = links.indexOf(document.activeElement);
    links[Math.min(Math.max(now + step, 0), links.length - 1)].focus();
  };
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.closest("input, select, textarea");
    if (!keysOn.checked || isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
    if (document.querySelector("dialog[open]")) return;
    if (isGoing) {
      isGoing = false;
      const place = document.querySelector(`.places a[data-key="${CSS.escape(event.key)}"]`);
      if (place) place.click();
    } else if (event.key === "g") {
      isGoing = true;
      setTimeout(() => { isGoing = false; }, 1500);
    } else if (event.key === "/" && byId("find")) {
      event.preventDefault();
      byId("find").focus();
    } else if (event.key === "?") {
      help.showModal();
    } else if (event.key === "j") {
      rowStep(1);
    } else if (event.key === "k") {
      rowStep(-1);
    }
  });

  // Confirmations open over the page that they are about.
  const ask = byId("ask");
  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target && event.detail.target.id === "ask-content") {
      ask.showModal();
      const reason = ask.querySelector("textarea");
      if (reason) reason.focus();
    }
  });
  ask.addEventListener("click", (event) => {
    if (event.target.closest("[data-close]")) {
      event.preventDefault();
      ask.close();
    }
  });
  // What somebody opened or closed stays so while its page is read again.
  let opened = new Map();
  document.addEventListener("htmx:beforeSwap", () => {
    opened = new Map([...document.querySelectorAll("main details[id]")].map((one) => [one.id, one.open]));
  });
  document.addEventListener("htmx:afterSwap", () => {
    for (const [id, isOpen] of opened) if (byId(id)) byId(id).open = isOpen;
  });
  // A form is sent once.
  document.addEventListener("submit", (event) => {
    if (event.target.method !== "post") return;
    // When the browser has taken which button it was.
    setTimeout(() => {
      for (const button of event.target.querySelectorAll("button")) button.disabled = true;
    });
  });

  // Empty filters are left out of the address; what a request was refused for is said.
  document.addEventListener("htmx:configRequest", (event) => {
    const asked = event.detail.parameters;
    for (const name of Object.keys(asked)) if (asked[name] === "") delete asked[name];
  });
  const told = byId("told");
  document.addEventListener("htmx:beforeSwap", (event) => {
    const status = event.detail.xhr.status;
    if (status >= 400 && status !== 401) {
      const page = new DOMParser().parseFromString(event.detail.xhr.responseText, "text/html");
      const alert = page.querySelector("[role=alert]");
      told.textContent = alert ? alert.textContent : `The console answered ${status}.`;
    } else {
      told.textContent = "";
    }
  });
  document.addEventListener("htmx:sendError", () => { told.textContent = "The console cannot be reached now."; });

  // Times as people say them, kept current; on hover exactly, in the zone of whoever looks.
  const units = [["s", 1, 60], ["min", 60, 3600], ["h", 3600, 172800], ["d", 86400, Infinity]];
  const roughly = (seconds) => {
    const size = Math.abs(seconds);
    if (size < 1) return "now";
    const [unit, of] = units.find(([, , below]) => size < below);
    const said = `${Math.floor(size / of)} ${unit}`;
    return seconds > 0 ? `${said} ago` : `in ${said}`;
  };
  const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });
  // The server's clock made the page: a browser's that is wrong moves no time.
  const ahead = Date.now() - Date.parse(root.dataset.now);
  const tellTimes = () => {
    for (const time of document.querySelectorAll("time.ago")) {
      const at = Date.parse(time.dateTime);
      const said = roughly((Date.now() - ahead - at) / 1000);
      if (time.textContent !== said) time.textContent = said;
      if (time.dataset.told !== time.dateTime) {
        time.dataset.told = time.dateTime;
        time.title = clock.format(at);
      }
    }
  };
  tellTimes();
  setInterval(tellTimes, 1000);
  for (const name of ["htmx:afterSettle", "htmx:sseMessage"]) document.addEventListener(name, tellTimes);

  // Lists that are read again when something has moved, while somebody looks at them.
  const isLive = () => byId("list") && byId("list").dataset.live === "yes";
  let isStale = false;
  const readAgain = async () => {
    isStale = true;
    if (!isLive() || document.hidden || document.querySelector("dialog[open]") || getSelection().type === "Range") return;
    isStale = false;
    const before = document.activeElement;
    const left = [...document.querySelectorAll("#list .scroll")].map((one) => one.scrollLeft);
    await htmx.ajax("GET", location.href, { target: "#list", select: "#list", swap: "outerHTML" });
    const regions = [...document.querySelectorAll("#list .scroll")];
    regions.forEach((one, at) => { one.scrollLeft = left[at] || 0; });
    if (before.isConnected || document.activeElement !== document.body) return;
    const same = before.href ? document.querySelector(`#list a[href="${CSS.escape(before.getAttribute("href"))}"]`) : regions[0];
    if (same) same.focus({ preventScroll: true });
  };
  if (byId("list") && byId("list").dataset.live) {
    let moves = null;
    const follow = () => {
      if (document.hidden) {
        if (moves) moves.close();
        moves = null;
        isStale = true;
      } else if (!moves) {
        moves = new EventSource(`${BASE}/live/moves`);
        moves.addEventListener("moved", readAgain);
      }
    };
    follow();
    document.addEventListener("visibilitychange", follow);
    setInterval(() => { if (isStale) readAgain(); }, 2000);
  }

  // The chart of the first page.
  const place = byId("chart");
  let chart = null;
  let minutes = place ? JSON.parse(place.dataset.minutes) : null;
  const colour = (name) => {
    const probe = document.createElement("span");
    probe.style.color = `var(${name})`;
    document.body.append(probe);
    const value = getComputedStyle(probe).color;
    probe.remove();
    return value;
  };
  const said = (_u, number) => (number === null ? "" : number.toLocaleString("en"));
  function drawChart() {
    if (!place) return;
    if (chart) chart.destroy();
    const axis = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 } };
    chart = new uPlot({
      width: Math.max(200, place.clientWidth - 16),
      height: 200,
      tzDate: (ts) => uPlot.tzDate(new Date(ts * 1000), "UTC"),
      scales: { y: { range: (_u, _min, max) => [0, Math.max(1, max * 1.1)] } },
      axes: [{ ...axis, values: "{HH}:{mm}" }, { ...axis, size: 64 }],
      series: [
        { label: "minute (UTC)", value: (_u, ts) => (ts === null ? "" : new Date(ts * 1000).toISOString().slice(0, 16).replace("T", " ")) },
        { label: "accepted", value: said, stroke: colour("--busy"), width: 2, points: { show: false } },
        { label: "settled", value: said, stroke: colour("--good"), width: 2, dash: [6, 3], points: { show: false } },
      ],
    }, minutes, place);
  }
  if (place) {
    drawChart();
    new ResizeObserver(() => {
      const width = Math.max(200, place.clientWidth - 16);
      if (chart && chart.width !== width) chart.setSize({ width, height: 200 });
    }).observe(place);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawChart);
    document.addEventListener("htmx:sseMessage", (event) => {
      if (event.target.id !== "minutes") return;
      minutes = JSON.parse(event.detail.data);
      chart.setData(minutes);
    });
  }
})();
