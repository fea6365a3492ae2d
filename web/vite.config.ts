// One build per page: `vite build --mode board` and `vite build --mode desk`. What is built is committed and shipped in the
// wheel, so nothing here may depend on the machine, the clock or the network.
import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url));

/** Where each page's build goes: into the room that serves it. */
const OUTPUT: Record<string, string> = {
  board: "../edge/dashboard/static",
  desk: "../upstream/desk/static",
};

export default defineConfig(({ mode }) => {
  const output = OUTPUT[mode];
  if (!output) throw new Error(`--mode ${mode}: the pages are ${Object.keys(OUTPUT).join(" and ")}`);
  const backend = process.env["KINEDGE_URL"] ?? "http://127.0.0.1:8799";
  return {
    root: here(mode),
    base: "./",
    publicDir: false,
    clearScreen: false,
    resolve: { alias: { "@shared": here("shared") } },
    // A running board or collector; without KINEDGE_URL the replay of web/fixtures (tests/board_replay.py).
    server: { proxy: { "/api": { target: backend, changeOrigin: true } } },
    build: {
      outDir: here(output),
      emptyOutDir: true,
      target: ["chrome105", "firefox115", "safari16"],
      assetsInlineLimit: 0, // a data: address would need a hole in `default-src 'self'`
      modulePreload: { polyfill: false },
      sourcemap: false,
      reportCompressedSize: false,
    },
  };
});
