/* Starts every part in the order in which a reader meets them. */

async function start() {
  for (const [key, value] of readHash()) state.set(key, value);
  followTheme();
  followLinks();
  document.querySelectorAll(".tables").forEach(followTables);
  chosenBar();
  addEventListener("hashchange", followHash);
  await new Promise((resume) => { requestAnimationFrame(() => setTimeout(resume)); });
  if (state.has("at")) goTo(state.get("at"));
  for (const view of document.querySelectorAll(".token-view")) await tokenView(view);
  await drawFigures();
  if (state.has("at")) goTo(state.get("at"));
  document.documentElement.dataset.drawn = "true";
}

start().catch((error) => {
  const told = element("p", "absent", `This browser could not draw the figures (${error.message}); the sentences and numbers above them hold.`);
  document.querySelector("main").prepend(told);
  throw error;
});
