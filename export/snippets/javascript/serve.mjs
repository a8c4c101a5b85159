// `npm start`: shows the page at an address of this machine alone, until Ctrl-C. It needs no packages.
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize, sep } from "node:path";
import { fileURLToPath } from "node:url";

const FOLDER = fileURLToPath(new URL("../../", import.meta.url));
const PAGE = "/snippets/javascript/index.html";
const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".mjs": "text/javascript",
  ".json": "application/json",
  ".wasm": "application/wasm",
};

const server = createServer(async (request, response) => {
  const [pathname] = request.url.split("?");
  if (pathname === "/") return response.writeHead(302, { location: PAGE }).end();
  const file = inside(pathname);
  const found = file && (await stat(file).catch(() => null));
  if (!found?.isFile()) return response.writeHead(404).end("not here");
  response.writeHead(200, { "content-type": TYPES[extname(file)] ?? "application/octet-stream" });
  return createReadStream(file).pipe(response);
});

function inside(pathname) {
  try {
    const file = normalize(join(FOLDER, decodeURIComponent(pathname)));
    return file.startsWith(FOLDER.endsWith(sep) ? FOLDER : FOLDER + sep) && !file.includes("\0") ? file : null;
  } catch {
    return null; // no path at all
  }
}

let port = Number(process.env.PORT ?? 8000);
server.on("error", (error) => {
  if (error.code !== "EADDRINUSE" || process.env.PORT) throw error;
  server.listen(++port, "127.0.0.1"); // someone else is there
});
server.on("listening", () => console.log(`Open http://127.0.0.1:${server.address().port}/   (Ctrl-C ends it)`));
server.listen(port, "127.0.0.1");
