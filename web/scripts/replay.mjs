// The development server's stand-in for the board: plays web/fixtures over the same routes (docs/board-api.md). Never built in.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const fixture = (name) => JSON.parse(readFileSync(fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url)), "utf8"));
const send = (response, status, body) => {
  response.writeHead(status, { "Content-Type": "application/json", "Cache-Control": "no-store" });
  response.end(JSON.stringify(body));
};

export function replay(mode) {
  return {
    name: "kinedge-replay",
    apply: "serve",
    configureServer(server) {
      server.middlewares.use("/api", (request, response, next) => {
        if (mode !== "board") return next();
        try {
          return send(response, 200, fixture(`${request.url.split("?")[0].slice(1).replaceAll("/", "-")}.json`));
        } catch {
          return send(response, 404, { error: { code: "not_found", message: `no fixture for ${request.url}` } });
        }
      });
    },
  };
}
