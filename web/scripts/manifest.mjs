// Writes NAME.build.json: the SHA-256 of every source a page was built from, and of every file that came out. A Python test
// compares both with the tree (tests/test_web_build.py), because who installs kinedge has no node.
import { createHash } from "node:crypto";
import { copyFileSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const WEB = fileURLToPath(new URL("..", import.meta.url));
const OUTPUT = { board: "../edge/dashboard/static", desk: "../upstream/desk/static" };
const COMMON = ["package.json", "package-lock.json", "tsconfig.json", "vite.config.ts"];

const name = process.argv[2];
if (!(name in OUTPUT)) throw new Error(`manifest.mjs takes one of ${Object.keys(OUTPUT).join(", ")}`);
const output = join(WEB, OUTPUT[name]);

const files = (folder) =>
  readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name));
const digests = (paths, base) =>
  Object.fromEntries(
    paths
      .map((path) => [relative(base, path).replaceAll("\\", "/"), createHash("sha256").update(readFileSync(path)).digest("hex")])
      .sort(([a], [b]) => (a < b ? -1 : 1)),
  );

// The licences of what was built in travel with it.
copyFileSync(join(WEB, "licences.txt"), join(output, "licences.txt"));
const sources = [...COMMON.map((path) => join(WEB, path)), ...files(join(WEB, name)), ...files(join(WEB, "shared"))];
const manifest = { sources: digests(sources, WEB), built: digests(files(output), output) };
writeFileSync(join(WEB, `${name}.build.json`), `${JSON.stringify(manifest, null, 1)}\n`);
