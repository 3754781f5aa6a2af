// Builds plotly.min.js and LICENSES.txt, which are committed: npm ci && npm run build
import { build } from "esbuild";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const readJson = (path) => JSON.parse(readFileSync(path, "utf8"));

const result = await build({
  entryPoints: ["entry.cjs"],
  bundle: true,
  minify: true,
  format: "iife",
  globalName: "Plotly",
  define: { global: "window" },
  loader: { ".css": "empty" },
  legalComments: "none", // all licences stand in LICENSES.txt, and in the page
  charset: "ascii",
  target: "es2018",
  metafile: true,
  write: false,
});

// The folder of a package: what follows the last node_modules/, with its scope.
const folderOf = (input) => input.match(/^.*node_modules\/(?:@[^/]+\/)?[^/]+/)?.[0];
const isUsed = ([, { bytesInOutput }]) => bytesInOutput > 0;
const [{ inputs }] = Object.values(result.metafile.outputs);
const used = Object.entries(inputs).filter(isUsed).map(([input]) => folderOf(input));
const folders = [...new Set(used.filter(Boolean))].sort();

function licenceOf(folder) {
  const { name, version, license, author } = readJson(join(folder, "package.json"));
  const files = readdirSync(folder).filter((file) => /^(licen[cs]e|copying)/i.test(file));
  const found = files.map((file) => readFileSync(join(folder, file), "utf8").trim()).join("\n\n");
  const text = found || `The package names its author, ${author?.name ?? author}, and has no text.`;
  return { name: `${name} ${version} (${license})`, text };
}

const texts = new Map();
for (const { name, text } of folders.map(licenceOf)) {
  texts.set(text, [...(texts.get(text) ?? []), name]);
}
const { version } = readJson("node_modules/plotly.js/package.json");
const licences = [`plotly.js ${version} and what it is made of`];
for (const [text, names] of texts) licences.push(`${names.join("\n")}\n\n${text}`);

writeFileSync("LICENSES.txt", `${licences.join(`\n\n${"-".repeat(72)}\n`)}\n`.replaceAll("\r", ""));
writeFileSync("plotly.min.js", `/* plotly.js v${version}; licences below */\n${result.outputFiles[0].text}`);
