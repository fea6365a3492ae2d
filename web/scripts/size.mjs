// What a browser has to fetch, plain and as gzip would send it.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const WEB = fileURLToPath(new URL("..", import.meta.url));
for (const folder of ["../edge/dashboard/static", "../upstream/desk/static"]) {
  let plain = 0;
  let packed = 0;
  for (const entry of readdirSync(join(WEB, folder), { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const bytes = readFileSync(join(entry.parentPath ?? entry.path, entry.name));
    const small = entry.name.endsWith(".woff2") ? bytes.length : gzipSync(bytes, { level: 9 }).length;
    plain += bytes.length;
    packed += small;
    console.log(`${String(bytes.length).padStart(9)} ${String(small).padStart(8)}  ${folder.slice(3)}/${entry.name}`);
  }
  console.log(`${String(plain).padStart(9)} ${String(packed).padStart(8)}  together\n`);
}
