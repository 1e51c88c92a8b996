import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { defineConfig, type Plugin } from "vite";
import { text } from "./src/text.ts";

/** Fills the placeholders of index.html with src/text.ts. */
const pageText: Plugin = {
  name: "page-text",
  transformIndexHtml: {
    order: "pre",
    handler: (html) =>
      html.replace(/{{(\w+)}}/g, (_, key: string) => {
        const value = text[key as keyof typeof text];
        if (typeof value !== "string") throw new Error(`src/text.ts has no text "${key}"`);
        return value;
      }),
  },
};

/** Writes the service worker, which caches the files of the build. */
const offline: Plugin = {
  name: "offline",
  apply: "build",
  enforce: "post",
  generateBundle(_, bundle) {
    const hash = createHash("sha256");
    for (const file of Object.values(bundle)) hash.update(file.type === "chunk" ? file.code : file.source);
    const files = ["./", ...Object.keys(bundle).map((name) => `./${name}`)];
    const source = readFileSync(new URL("./src/sw.js", import.meta.url), "utf8")
      .replace("__FILES__", JSON.stringify(files))
      .replace("__VERSION__", hash.digest("hex").slice(0, 12));
    this.emitFile({ type: "asset", fileName: "sw.js", source });
  },
};

export default defineConfig({
  base: "./",
  plugins: [pageText, offline],
  // Into the package: `egeunet serve` serves the page at `/`, and wheels contain it.
  build: { outDir: "../src/egeunet/serve/page", emptyOutDir: true, target: "es2022", assetsInlineLimit: 0 },
});
